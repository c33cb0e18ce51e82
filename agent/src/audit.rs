//! Looks at what runs, and says what of it is not as it should be. Nothing here changes anything.

mod bounded;
pub mod firewall;
pub mod http;
pub mod tls;

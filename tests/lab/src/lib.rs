//! Private hosts for the demo and the integration tests.

//! Integration tests of Portcullis; what they share is in the `lab` crate.

//! Hand-made states and what they merge into.

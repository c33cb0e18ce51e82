//! Tests of the host plan.

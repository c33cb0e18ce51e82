//! Answers of real engines and what is read from them.

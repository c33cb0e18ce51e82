//! The agent inside a lab, used as its users do: by its command line, its HTTP endpoints and its signals.

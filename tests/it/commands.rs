//! Commands, documents and exit codes.

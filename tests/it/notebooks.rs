//! notebooks

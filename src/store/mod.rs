//! What is remembered: the index and the blob directory.

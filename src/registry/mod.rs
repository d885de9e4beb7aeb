//! The registry client: auth, pull, push, OCI layout directories.

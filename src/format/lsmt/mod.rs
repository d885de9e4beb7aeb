//! LSMT: a layer as a diff of 512-byte sectors over the disk below it.

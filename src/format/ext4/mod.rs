//! The ext4 engine: opens or makes a filesystem on a block device and edits it.

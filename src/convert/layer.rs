//! One step: tar → ext4 over LSMT → `ZFile`.

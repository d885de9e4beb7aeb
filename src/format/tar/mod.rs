//! Layer tars, as GNU tar, bsdtar and Go write them.

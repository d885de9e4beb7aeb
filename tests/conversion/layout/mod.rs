//! OCI image layouts as upstreams, against skopeo, faults and each other.

mod archive;
mod directory;
mod faults;
mod front;
mod sharing;
mod skopeo;
mod support;

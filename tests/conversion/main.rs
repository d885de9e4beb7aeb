//! What images become: layers, indexes and layouts, their limits, and disks that refuse.

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod broken_images;
mod cases;
mod check;
mod claims;
mod damage;
mod data_order;
mod descriptors;
mod durability;
mod freed_blocks;
mod full_disk;
mod hostile_layers;
mod indexes;
mod layers_everything;
mod layout;
mod many_links;
mod one_directory;
mod real_image;
mod reflink;
mod sizes;
mod source_layers;
mod turbo;
mod verifiers;
mod windows;

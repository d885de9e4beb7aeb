//! `cold-start`: programs that run out of an image of which nothing was read before, and what is
//! said of it.

#[path = "../support/mod.rs"]
mod support;

mod ends;
mod images;
mod places;
mod programs;

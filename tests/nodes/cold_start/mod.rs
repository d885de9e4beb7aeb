//! `cold-start`: programs that run out of an image of which nothing was read before, and what is
//! said of it.

mod ends;
mod images;
mod places;
mod programs;

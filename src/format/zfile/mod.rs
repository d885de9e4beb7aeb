//! `ZFile`: a file compressed block by block, readable at random.

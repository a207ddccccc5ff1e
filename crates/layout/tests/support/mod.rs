//! Shared by the tests of the engine: homes, pictures of trees, programs.

pub(crate) mod homes;
pub(crate) mod programs;
pub(crate) mod tree;

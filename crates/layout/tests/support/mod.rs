//! What the tests of the engine share: homes to migrate, pictures of trees, the programs to run.

pub(crate) mod homes;
pub(crate) mod programs;
pub(crate) mod tree;

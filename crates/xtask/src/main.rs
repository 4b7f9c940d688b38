//! The project's chores, as `cargo xtask <verb>`.
fn main() {}

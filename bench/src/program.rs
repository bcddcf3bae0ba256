//! Where the program under test is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Path of our program: the one given, or the one beside this. Absolute, because daemons run in
/// directories of their own.
///
/// # Errors
///
/// When the path of this program, or the directory that `given` is relative to, cannot be had.
pub fn meshctl(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("meshctl"),
    };
    std::path::absolute(&path).with_context(|| path.display().to_string())
}

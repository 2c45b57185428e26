//! The demonstration.

/// Runs it.
///
/// # Errors
/// Always, for now.
pub fn run() -> std::io::Result<()> {
    Err(std::io::Error::other("there is no demonstration yet"))
}

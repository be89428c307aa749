//! Owns making small programs for a test. Refuses to write them itself: a process that starts
//! others at the same time would pass the open file on, and the kernel starts no file that
//! somebody still writes.

use std::path::Path;
use std::process::Command;

/// A shell script that can be started.
pub fn script(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = r#"printf '#!/bin/sh\n%s\n' "$2" > "$1" && chmod 755 "$1""#;
    run(Command::new("sh").args(["-c", write, "sh"]).arg(path).arg(text))
}

/// A command that has to succeed; `cp`, for one, makes programs too.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status()?;
    anyhow::ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

//! systemd has nothing to say against the units.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

#[test]
fn units_verify() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let directory = tempfile::tempdir().unwrap();
    // The units name the place where the program will be; here it need only be a program.
    let program = env::current_exe().unwrap();
    let mut files = Vec::new();
    for entry in fs::read_dir(units).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|suffix| suffix == "service" || suffix == "target")
        {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.replace("/opt/bin/meshctl", program.to_str().unwrap());
            let file = directory.path().join(path.file_name().unwrap());
            fs::write(&file, text).unwrap();
            files.push(file);
        }
    }
    assert_eq!(files.len(), 3);
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&files)
        .env(
            "SYSTEMD_UNIT_PATH",
            format!("{}:", directory.path().display()),
        )
        .output()
        .expect("systemd-analyze is installed (package systemd)");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaints.is_empty(),
        "{complaints}"
    );
}

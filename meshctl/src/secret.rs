//! Keeps the password out of sight.
//!
//! What stands on the command line or in the environment of a process is shown by `ps` and by
//! `/proc` for as long as the process lives. So `launch`, when it finds a password there, puts it
//! into an anonymous file in memory and starts itself anew, under the same process id, with a
//! command line and an environment that only name the descriptor of that file. The file is emptied
//! when it is read.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::MemfdFlags;
use zeroize::Zeroizing;

use crate::cli::{Exit, Failure, argv};

/// The password, unless a flag or a file names another.
pub const PASSWORD_VARIABLE: &str = "WEAVE_PASSWORD";
/// Name of the file in memory, as `/proc` shows it.
const MEMORY_FILE: &str = "meshctl-password";
/// The only verb that takes a password.
const VERB: &str = "launch";
/// A longer password file is a mistake.
const MAX_LEN: u64 = 64 * 1024;

/// Where the password of a command line is.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// The command line without it.
    rest: Vec<OsString>,
    /// What the last flag said; an empty password is none.
    flag: Option<OsString>,
    /// Whether it is in a file, which comes before the environment.
    file: bool,
}

/// `args`, if no password is in sight; otherwise this program starts anew and does not come back.
/// Long flags have two dashes already.
pub fn hide(args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let Some(verb) =
        argv::verb(&args).filter(|verb| args.get(*verb).is_some_and(|arg| arg == VERB))
    else {
        return Ok(args);
    };
    let variable = std::env::var_os(PASSWORD_VARIABLE);
    let found = find(&args);
    if found.rest.len() == args.len() && variable.is_none() {
        return Ok(args);
    }
    let password = match (found.flag, found.file) {
        (Some(password), _) => Some(password),
        (None, true) => None,
        (None, false) => variable.filter(|password| !password.is_empty()),
    };
    let error = start_anew(&found.rest, verb, password);
    Err(Failure::new(
        Exit::Failed,
        format!("cannot take the password out of sight: {error}"),
    )
    .hint("put it into a file that only root can read, and use --password-file"))
}

/// The password behind a descriptor that the process was started with.
pub fn read_descriptor(number: u32) -> io::Result<Zeroizing<Vec<u8>>> {
    let path = PathBuf::from(format!("/proc/self/fd/{number}"));
    let ours = std::fs::read_link(&path)?;
    let ours = ours.as_os_str().as_bytes();
    let ours = ours.starts_with(format!("/memfd:{MEMORY_FILE}").as_bytes());
    let mut file = OpenOptions::new().read(true).write(ours).open(&path)?;
    let mut password = Zeroizing::new(Vec::new());
    (&mut file).take(MAX_LEN).read_to_end(&mut password)?;
    if ours {
        file.set_len(0)?;
    }
    Ok(password)
}

/// The password in a file: all of it but one line end.
pub fn read_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut password = Zeroizing::new(Vec::new());
    File::open(path)?
        .take(MAX_LEN + 1)
        .read_to_end(&mut password)?;
    if password.len() as u64 > MAX_LEN {
        let text = format!("longer than {MAX_LEN} bytes: is it really a password?");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    if password.ends_with(b"\n") {
        password.pop();
        if password.ends_with(b"\r") {
            password.pop();
        }
    }
    Ok(password)
}

fn find(args: &[OsString]) -> Found {
    let mut found = Found {
        rest: Vec::with_capacity(args.len()),
        flag: None,
        file: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_bytes() {
            b"--" => {
                found.rest.push(arg.clone());
                found.rest.extend(args.by_ref().cloned());
            }
            b"--password" => match args.next() {
                Some(password) => found.flag = Some(password.clone()),
                // The parser has words for a flag without its value.
                None => found.rest.push(arg.clone()),
            },
            bytes => match bytes.strip_prefix(b"--password=") {
                Some(password) => found.flag = Some(OsStr::from_bytes(password).to_owned()),
                None => {
                    found.file |= bytes.starts_with(b"--password-file");
                    found.rest.push(arg.clone());
                }
            },
        }
    }
    found.flag = found.flag.filter(|password| !password.is_empty());
    found
}

/// Comes back only if it failed.
fn start_anew(args: &[OsString], verb: usize, password: Option<OsString>) -> io::Error {
    let start = || -> io::Result<io::Error> {
        // The file in memory must stay open, and open to the new program, until it has started.
        let file = match password {
            Some(password) => Some(in_memory(password.as_bytes())?),
            None => None,
        };
        let program = std::env::current_exe()
            .ok()
            .filter(|path| path.exists())
            .unwrap_or_else(|| "/proc/self/exe".into());
        let mut command = Command::new(program);
        command.env_remove(PASSWORD_VARIABLE);
        for (position, arg) in args.iter().enumerate() {
            if position == 0 {
                command.arg0(arg);
                continue;
            }
            command.arg(arg);
            if let (true, Some(file)) = (position == verb, &file) {
                command.arg(format!("--password-fd={}", file.as_raw_fd()));
            }
        }
        Ok(command.exec())
    };
    match start() {
        Ok(error) | Err(error) => error,
    }
}

fn in_memory(password: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create(MEMORY_FILE, MemfdFlags::empty())?);
    file.write_all(password)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &[&str]) -> (Vec<String>, Option<String>, bool) {
        let args: Vec<_> = line.iter().map(OsString::from).collect();
        let found = find(&args);
        let text = |arg: OsString| arg.into_string().unwrap();
        let rest = found.rest.into_iter().map(text).collect();
        (rest, found.flag.map(text), found.file)
    }

    #[test]
    fn passwords_are_taken_out_of_the_command_line() {
        let plain = vec!["m".to_owned(), "launch".to_owned(), "host".to_owned()];
        for line in [
            vec!["m", "launch", "--password", "s3cret", "host"],
            vec!["m", "launch", "host", "--password=s3cret"],
            vec![
                "m",
                "launch",
                "--password=first",
                "host",
                "--password",
                "s3cret",
            ],
        ] {
            let expected = (plain.clone(), Some("s3cret".to_owned()), false);
            assert_eq!(found(&line), expected, "{line:?}");
        }
        assert_eq!(
            found(&["m", "launch", "host"]),
            (plain.clone(), None, false)
        );
        assert_eq!(
            found(&["m", "launch", "host", "--password="]),
            (plain, None, false)
        );
        let (rest, flag, _) = found(&["m", "launch", "host", "--password"]);
        assert_eq!((rest.len(), flag), (4, None));
        let (rest, flag, file) = found(&["m", "launch", "--password-file", "f"]);
        assert_eq!((rest.len(), flag, file), (4, None, true));
        // Behind two dashes there are hosts only.
        let (rest, flag, _) = found(&["m", "launch", "--", "--password", "x"]);
        assert_eq!((rest.len(), flag), (5, None));
    }

    #[test]
    fn a_file_loses_one_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        for (content, password) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            ("s3cret\r\n", "s3cret"),
            (" s3cret \n\n", " s3cret \n"),
            ("", ""),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(read_file(&path).unwrap().as_slice(), password.as_bytes());
        }
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(read_file(&path).is_err());
    }

    #[test]
    fn a_descriptor_of_ours_is_emptied() {
        let file = in_memory(b"s3cret").unwrap();
        let number = u32::try_from(file.as_raw_fd()).unwrap();
        assert_eq!(read_descriptor(number).unwrap().as_slice(), b"s3cret");
        assert_eq!(read_descriptor(number).unwrap().as_slice(), b"");
        let mut other = tempfile::tempfile().unwrap();
        other.write_all(b"kept").unwrap();
        let number = u32::try_from(other.as_raw_fd()).unwrap();
        assert_eq!(read_descriptor(number).unwrap().as_slice(), b"kept");
        assert_eq!(read_descriptor(number).unwrap().as_slice(), b"kept");
    }
}

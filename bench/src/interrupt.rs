//! Ending early but in good order: the first INT or TERM asks for it, the second ends the program.
//!
//! What takes long looks at [`asked`] now and then, or waits with [`sleep`]. Namespaces and daemons
//! go away with the values that own them; what the second signal leaves behind, the next run
//! removes.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Exit code of a program that INT has ended.
pub const EXIT_CODE: u8 = 130;
/// [`sleep`] looks this often.
const INTERVAL: Duration = Duration::from_millis(50);

/// Listens for the signals from now on, on a thread of its own.
pub fn listen() -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut int, mut term) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    let listener = async move {
        loop {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
            if ASKED.swap(true, Ordering::Relaxed) {
                process::exit(EXIT_CODE.into());
            }
            eprintln!("ending");
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(listener))
        .context("cannot start a thread")?;
    Ok(())
}

/// Whether the program was asked to end.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Fails when the program was asked to end.
pub fn check() -> Result<()> {
    if asked() {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits so long, or until the program is asked to end, which is an error.
pub fn sleep(duration: Duration) -> Result<()> {
    let started = Instant::now();
    loop {
        check()?;
        let left = duration.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(INTERVAL));
    }
}

//! Writes the golden bytes, one file each, into the directory named, and prints the targets' names.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| "corpus/seeds".to_owned());
    std::fs::create_dir_all(&directory)?;
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
    for (number, seed) in tests::fuzz::seeds(&vectors).iter().enumerate() {
        std::fs::write(Path::new(&directory).join(number.to_string()), seed)?;
    }
    for (name, _) in tests::fuzz::TARGETS {
        println!("{name}");
    }
    Ok(())
}

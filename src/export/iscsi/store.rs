//! Where what has to outlive the target is kept: a directory with a file for each unit that has something to keep.
//!
//! A file is replaced as a whole: written under another name, synced, renamed, and the directory synced. So whatever stops the machine
//! leaves the record of before or that of after, and the one that an initiator was told of is on the medium by then.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes of a record: as many registrations as a unit can have, with names that fill the parameter list they came in.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// How long the directory's lock is waited for: a process that was killed may hold it for a moment longer.
const LOCK_WITHIN: Duration = Duration::from_secs(2);

/// A directory of records, held by nobody else.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// Locked, and synced when a name in it has changed.
    directory: File,
}

impl Store {
    /// Takes a directory for its own, after a record has been written there and taken away again.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let directory = File::open(path).and_then(|directory| {
            let is_directory = directory.metadata()?.is_dir();
            is_directory
                .then_some(directory)
                .ok_or_else(|| ErrorKind::NotADirectory.into())
        });
        let directory =
            directory.map_err(|error| format!("cannot use the directory {shown}: {error}"))?;
        lock(&directory).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => format!("another polldm keeps its state in {shown}"),
            _ => format!("cannot lock the directory {shown}: {error}"),
        })?;
        let store = Self {
            path: path.to_owned(),
            directory,
        };
        let trial = [0; 16];
        let tried = store.write(&trial, Some("trial\n"));
        tried
            .and_then(|()| store.write(&trial, None))
            .map_err(|error| format!("cannot write in the directory {shown}: {error}"))?;
        Ok(store)
    }

    /// The file of a unit.
    pub fn file(&self, unit: &[u8; 16]) -> PathBuf {
        self.path.join(name(unit))
    }

    /// The record of a unit, if it has one.
    ///
    /// # Errors
    /// Names the file, and the line of what is not text.
    pub fn read(&self, unit: &[u8; 16]) -> Result<Option<String>, String> {
        let file = self.file(unit);
        let wrong = |why: String| format!("cannot read {}: {why}", file.display());
        let mut bytes = Vec::new();
        let opened = match File::open(&file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(error.to_string())),
        };
        opened
            .take(RECORD_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| wrong(error.to_string()))?;
        if bytes.len() as u64 > RECORD_BYTES_MAX {
            return Err(wrong(format!("it is longer than {RECORD_BYTES_MAX} bytes")));
        }
        String::from_utf8(bytes).map(Some).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
            wrong(format!("line {line}: it is not text"))
        })
    }

    /// Keeps a record, or that there is none. It is on the medium when this returns.
    ///
    /// # Errors
    /// The record of before may still be there, or that of now.
    pub fn write(&self, unit: &[u8; 16], record: Option<&str>) -> io::Result<()> {
        let file = self.file(unit);
        match record {
            Some(record) => {
                let new = file.with_extension("new");
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                let mut opened = options.open(&new)?;
                opened.write_all(record.as_bytes())?;
                opened.sync_all()?;
                fs::rename(&new, &file)?;
            }
            None => match fs::remove_file(&file) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed?,
            },
        }
        self.directory.sync_all()
    }
}

fn name(unit: &[u8; 16]) -> String {
    let unit: String = unit.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{unit}.reservations")
}

fn lock(directory: &File) -> io::Result<()> {
    let deadline = Instant::now() + LOCK_WITHIN;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(()),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

//! The control socket as a file: made so that only its owner can reach it, never over a living server's.

use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long another polldm may be in the middle of making a socket in the same directory.
const LOCK_TIME_MAX: Duration = Duration::from_secs(2);

/// Why there is no control socket.
#[derive(Debug)]
pub enum BindError {
    /// Somebody answers there.
    InUse(PathBuf),
    /// Something is there that is no socket.
    NotASocket(PathBuf),
    /// The per-user directory is somebody else's, or open to others.
    UnsafeDirectory {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refused a step.
    System {
        /// The step.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::InUse(path) => write!(
                f,
                "the control socket {} is in use: another polldm serves there; stop it, or choose another path",
                path.display()
            ),
            BindError::NotASocket(path) => write!(
                f,
                "the control socket {} cannot be made: a file that is no socket is there; remove it, or choose another path",
                path.display()
            ),
            BindError::UnsafeDirectory { directory, reason } => write!(
                f,
                "the directory {} of the control socket is not safe: {reason}; it must be yours alone, with mode 0700",
                directory.display()
            ),
            BindError::System { what, path, error } => {
                write!(f, "cannot {what} {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for BindError {}

/// A bound control socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file: it is removed only if it is still the one that was made.
    identity: (u64, u64),
}

impl Socket {
    /// Makes the socket, with mode 0600. A socket file that nobody serves any more is replaced. A missing parent directory
    /// is made with mode 0700 when `path` is the user's default.
    ///
    /// # Errors
    /// As [`BindError`] says; nothing is left behind.
    pub fn bind(path: &Path) -> Result<Socket, BindError> {
        let system = |what, path: &Path| {
            let path = path.to_owned();
            move |error| BindError::System { what, path, error }
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if path == crate::config::default_control_socket() {
            private_directory(parent)?;
        }
        // Between finding a stale file and replacing it nobody else may do the same.
        let directory =
            File::open(parent).map_err(system("open the control socket's directory", parent))?;
        lock(&directory).map_err(system("lock the control socket's directory", parent))?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(system("make the control socket", path))?;
        let socket = Socket {
            listener,
            path: path.to_owned(),
            identity: fs::symlink_metadata(path)
                .map(identity)
                .map_err(system("look at", path))?,
        };
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .map_err(system("set the mode of", path))?;
        // Whoever came before the mode was set may be anybody.
        socket.turn_away().map_err(system("listen on", path))?;
        Ok(socket)
    }

    /// What to accept on.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the socket's file, if it is still the one that was made.
    pub fn remove(&self) {
        let ours = |metadata| identity(metadata) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // Left behind it does no harm: the next server replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }

    fn turn_away(&self) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        loop {
            match self.listener.accept() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.listener.set_nonblocking(false)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.remove();
    }
}

fn identity(metadata: fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Makes the per-user directory, or sees to it that it is ours alone: its name can be guessed, and /tmp is everybody's.
fn private_directory(directory: &Path) -> Result<(), BindError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            let what = "make the control socket's directory";
            return Err(BindError::System {
                what,
                path: directory.to_owned(),
                error,
            });
        }
    }
    let looked = fs::symlink_metadata(directory)
        .and_then(|there| Ok((there, fs::metadata("/proc/self")?.uid())));
    let (there, user) = looked.map_err(|error| BindError::System {
        what: "look at the control socket's directory",
        path: directory.to_owned(),
        error,
    })?;
    let reason = if !there.is_dir() {
        "it is no directory".to_owned()
    } else if there.uid() != user {
        format!("it belongs to user {}", there.uid())
    } else if user != 0 && there.mode() & 0o077 != 0 {
        // Root's is /run, which others may look into but not write to.
        format!("its mode is {:04o}", there.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(BindError::UnsafeDirectory {
        directory: directory.to_owned(),
        reason,
    })
}

fn lock(directory: &File) -> io::Result<()> {
    let deadline = Instant::now() + LOCK_TIME_MAX;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5))
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a socket file that nobody serves.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let system = |what| {
        move |error| BindError::System {
            what,
            path: path.to_owned(),
            error,
        }
    };
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(BindError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("look at")(error)),
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(system("replace the control socket"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(system("ask whether somebody serves")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_socket_is_its_owners_alone_and_goes_with_its_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_servers_socket_is_replaced_and_a_living_ones_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener leaves its file behind");
        let alive = Socket::bind(&path).unwrap();
        let refused = Socket::bind(&path).unwrap_err();
        assert!(matches!(refused, BindError::InUse(_)), "{refused}");
        assert!(refused.to_string().contains("control.sock"), "{refused}");
        assert!(
            UnixStream::connect(&path).is_ok(),
            "the refused one has not harmed it"
        );
        drop(alive);
    }

    #[test]
    fn no_other_file_is_ever_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(Socket::bind(&path), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
        let target = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &target).unwrap();
        assert!(matches!(
            Socket::bind(&target),
            Err(BindError::NotASocket(_))
        ));
        let missing = directory.path().join("no/such/directory.sock");
        assert!(matches!(
            Socket::bind(&missing),
            Err(BindError::System { .. })
        ));
    }

    #[test]
    fn a_successors_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let first = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Socket::bind(&path).unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
    }

    #[test]
    fn a_private_directory_is_made_private_and_refused_when_it_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let private = directory.path().join("polldm-1000");
        private_directory(&private).unwrap();
        assert_eq!(fs::metadata(&private).unwrap().mode() & 0o7777, 0o700);
        private_directory(&private).unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = private_directory(&file).unwrap_err();
        assert!(refused.to_string().contains("no directory"), "{refused}");
    }
}

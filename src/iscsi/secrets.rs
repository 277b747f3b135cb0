//! CHAP secrets: a file of names and secrets that nobody else can read.
//!
//! ```text
//! # who             name      secret                            only as this initiator (may be left out)
//! initiator         backup    "a secret of 16 "                 iqn.1993-08.org.debian:01:backup
//! initiator         host7     0x6f2c0a…
//! target            polldm    another-secret-1
//! ```
//!
//! An `initiator` line is what an initiator proves itself with, the one `target` line what the target proves itself with to those who ask.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::chap::binary;

/// Fewer bytes can be guessed from one exchange that was listened to (RFC 7143, 12.1.4: 96 bits).
const SECRET_BYTES_MIN: usize = 12;

/// Most bytes of a secret and of a name: what initiators take.
const SECRET_BYTES_MAX: usize = 255;

/// Most bytes of the file: some ten thousand initiators.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Bits of a mode that let others than owner and group read, and others than the owner write.
const TOO_OPEN: u32 = 0o027;

/// A secret: shown to nobody.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Its bytes, for the digest.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret")
    }
}

/// What an initiator proves itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The secret.
    pub secret: Secret,
    /// The initiator that may use it; everyone with the secret when `None`.
    pub initiator: Option<String>,
}

/// The secrets of a target, or of discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    users: HashMap<String, User>,
    own: Option<(String, Secret)>,
}

impl Secrets {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, that others can read or write, or whose lines are not right. The message has no part of any secret.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let cannot = |error: std::io::Error| format!("`{shown}` cannot be read: {error}");
        let file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if !metadata.is_file() {
            return Err(format!("`{shown}` is not a regular file"));
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & TOO_OPEN != 0 {
            return Err(format!(
                "others can read or change `{shown}` (mode {mode:03o}); `chmod 600 {shown}` keeps the secrets in it"
            ));
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(cannot)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("`{shown}` has more than {FILE_BYTES_MAX} bytes"));
        }
        Self::parse(&text).map_err(|(line, message)| format!("`{shown}`, line {line}: {message}"))
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// The line that is wrong, from 1, and what is.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut secrets = Self::default();
        for (index, line) in text.lines().enumerate() {
            secrets
                .take(line)
                .map_err(|message| (index + 1, message.to_owned()))?;
        }
        let end = text.lines().count().max(1);
        if secrets.users.is_empty() {
            return Err((
                end,
                "no initiator has a secret: a line is `initiator NAME SECRET`".to_owned(),
            ));
        }
        if let Some((_, own)) = &secrets.own
            && secrets.users.values().any(|user| user.secret == *own)
        {
            // RFC 7143, 12.1.4: whoever knows what an initiator proves itself with could be the target.
            return Err((
                end,
                "the target and an initiator have the same secret: each direction needs its own"
                    .to_owned(),
            ));
        }
        Ok(secrets)
    }

    fn take(&mut self, line: &str) -> Result<(), &'static str> {
        const FORM: &str = "a line is `initiator NAME SECRET`, the name of one initiator after it or not, or `target NAME SECRET`";
        let words = words(line)?;
        let (kind, name, secret, initiator) = match &words[..] {
            [] => return Ok(()),
            [kind, name, secret] => (kind.as_str(), name, secret, None),
            [kind, name, secret, initiator] => (kind.as_str(), name, secret, Some(initiator)),
            _ => return Err(FORM),
        };
        if name.is_empty() || name.len() > SECRET_BYTES_MAX {
            return Err("a name has 1 to 255 bytes");
        }
        let secret = read_secret(secret)?;
        match (kind, initiator) {
            ("initiator", initiator) => {
                let initiator = initiator.cloned();
                let user = User { secret, initiator };
                match self.users.insert(name.clone(), user) {
                    Some(_) => Err("a second secret for this name"),
                    None => Ok(()),
                }
            }
            ("target", None) => match self.own.replace((name.clone(), secret)) {
                Some(_) => Err("a second line for the target, which has one name and secret"),
                None => Ok(()),
            },
            _ => Err(FORM),
        }
    }

    /// All initiators' CHAP names, and what they prove themselves with, in no order.
    pub fn users(&self) -> impl Iterator<Item = (&str, &User)> {
        self.users.iter().map(|(name, user)| (name.as_str(), user))
    }

    /// What an initiator of this CHAP name proves itself with.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// The name and secret that the target proves itself with.
    pub fn own(&self) -> Option<(&str, &Secret)> {
        self.own
            .as_ref()
            .map(|(name, secret)| (name.as_str(), secret))
    }
}

fn read_secret(word: &str) -> Result<Secret, &'static str> {
    let bytes = if word.starts_with("0x") || word.starts_with("0X") {
        binary(word).ok_or("what follows 0x is not a whole number of hexadecimal bytes")?
    } else {
        word.as_bytes().to_vec()
    };
    if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
        return Err("a secret has 12 to 255 bytes");
    }
    Ok(Secret(bytes))
}

/// The words of a line: between white space, or between quotation marks. What follows `#` is for people.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let end = if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted
                .find('"')
                .ok_or("a quotation mark without its other")?;
            words.push(quoted[..end].to_owned());
            end + 2
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            words.push(rest[..end].to_owned());
            end
        };
        let after = &rest[end..];
        if !after.is_empty() && !after.starts_with(char::is_whitespace) {
            return Err("white space is missing after a quotation mark");
        }
        rest = after.trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_names_and_secrets() {
        let text = "# initiators\n\n initiator a \"a secret of 16 b\" iqn.x:1  # bound\ninitiator b 0x000102030405060708090a0b\ntarget us another-secret\n";
        let secrets = Secrets::parse(text).expect("it is right");
        let a = secrets.user("a").expect("a");
        assert_eq!(a.secret.bytes(), b"a secret of 16 b");
        assert_eq!(a.initiator.as_deref(), Some("iqn.x:1"));
        let b = secrets.user("b").expect("b");
        assert_eq!(b.secret.bytes(), (0..12).collect::<Vec<u8>>());
        assert_eq!(b.initiator, None);
        assert_eq!(
            secrets.own().map(|(name, own)| (name, own.bytes())),
            Some(("us", &b"another-secret"[..]))
        );
        assert!(secrets.user("A").is_none());
    }

    #[test]
    fn a_wrong_line_is_named() {
        let good = "initiator a secret-of-a-good-size\n";
        for (text, line, message) in [
            ("", 1, "no initiator"),
            ("target t secret-of-a-good-size", 1, "no initiator"),
            ("initiator a", 1, "a line is"),
            ("initiator a short", 1, "12 to 255"),
            ("initiator a 0x0001", 1, "12 to 255"),
            ("initiator a 0x000102030405060708090a0", 1, "hexadecimal"),
            ("initiator \"\" secret-of-a-good-size", 1, "1 to 255"),
            ("initiator a \"secret-of-a", 1, "quotation"),
            ("initiator \"a\"secret-of-a-good-size", 1, "white space"),
            ("user a secret-of-a-good-size", 1, "a line is"),
            (
                &format!("{good}initiator a secret-of-a-good-size"),
                2,
                "a second",
            ),
            (
                &format!("{good}target t secret-of-a-good-size"),
                2,
                "same secret",
            ),
            (
                &format!("{good}target t secret-of-the-target\ntarget u secret-of-the-target"),
                3,
                "a second",
            ),
            (
                &format!("{good}target t secret-of-the-target iqn.x:1"),
                2,
                "a line is",
            ),
        ] {
            let (at, said) = Secrets::parse(text).expect_err(text);
            assert_eq!(at, line, "{text}: {said}");
            assert!(said.contains(message), "{text}: {said}");
            assert!(!said.contains("good-size"), "{said}");
        }
    }

    #[test]
    fn nobody_else_may_read_it_and_nothing_shows_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("chap");
        std::fs::write(&path, "initiator a secret-of-a-good-size\n").expect("written");
        for (mode, good) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o644, false),
            (0o660, false),
            (0o602, false),
        ] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a mode");
            let read = Secrets::read(&path);
            match &read {
                Ok(secrets) => assert!(!format!("{secrets:?}").contains("good-size")),
                Err(message) => assert!(message.contains("chmod 600"), "{message}"),
            }
            assert_eq!(read.is_ok(), good, "{mode:o}");
        }
        let missing = Secrets::read(&directory.path().join("none"));
        assert!(missing.expect_err("none").contains("cannot be read"));
        assert!(Secrets::read(directory.path()).is_err());
    }
}

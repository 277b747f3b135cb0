//! Processors: which to run on, and how much of them was used.

use std::time::Duration;

/// Processors of the machine, in the order jobs take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List(pub Vec<usize>);

/// Most processors a Linux affinity mask of fixed size can name.
const PROCESSORS_MAX: usize = libc::CPU_SETSIZE as usize;

/// Reads `1`, `2-5`, `0,2`.
///
/// # Errors
///
/// What would be right.
pub fn parse_list(text: &str) -> Result<List, String> {
    let wrong = || format!("\"{text}\" is no list of processors; expected 1, 2-5 or 0,2");
    let number = |part: &str| {
        part.parse()
            .ok()
            .filter(|&core: &usize| core < PROCESSORS_MAX)
            .ok_or_else(wrong)
    };
    let mut cores = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(wrong());
                }
                cores.extend(first..=last);
            }
            None => cores.push(number(part)?),
        }
    }
    Ok(List(cores))
}

/// Pins the calling thread to one processor.
///
/// # Errors
///
/// A sentence that says why the kernel refused.
pub fn pin(core: usize) -> Result<(), String> {
    assert!(
        core < PROCESSORS_MAX,
        "parse_list lets no such processor through"
    );
    // SAFETY: an all-zero cpu_set_t is the empty set, of which CPU_SET changes one bit within bounds (checked
    // above); the kernel reads the set only during the call, and 0 names the calling thread.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 {
        return Ok(());
    }
    Err(format!(
        "--cores: processor {core}: {}",
        std::io::Error::last_os_error()
    ))
}

/// Processor time of the calling thread.
pub fn thread_time() -> Option<Duration> {
    schedstat("/proc/thread-self/schedstat")
}

/// Processor time of a process, all threads, those that ended too.
pub fn process_time(process: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    parse_process_stat(&text)
}

/// The first number of a schedstat file: nanoseconds on a processor.
fn schedstat(path: &str) -> Option<Duration> {
    let text = std::fs::read_to_string(path).ok()?;
    text.split_whitespace()
        .next()?
        .parse()
        .ok()
        .map(Duration::from_nanos)
}

/// User and system time, fields 14 and 15 of proc(5)'s stat, in hundredths of a second (USER_HZ).
fn parse_process_stat(text: &str) -> Option<Duration> {
    // The command name (field 2) may hold anything, but ends with the last parenthesis.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 10))
}

/// The process on this machine that listens on a TCP port, where this user may know.
pub fn listener_of(port: u16) -> Option<u32> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .find_map(|path| {
            let text = std::fs::read_to_string(path).ok()?;
            listening_inode(&text, port)
        })?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(id) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // Other users' processes cannot be looked into; they are passed over.
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for file in files.flatten() {
            if std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())
            {
                return Some(id);
            }
        }
    }
    None
}

/// The inode of the socket that listens on `port`, from the text of /proc/net/tcp.
fn listening_inode(text: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    text.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        let (_, local_port) = local.rsplit_once(':')?;
        let matches = state == LISTEN && u16::from_str_radix(local_port, 16) == Ok(port);
        matches.then_some(inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse_list("1"), Ok(List(vec![1])));
        assert_eq!(parse_list("2-4,0"), Ok(List(vec![2, 3, 4, 0])));
        for text in ["", "a", "3-1", "1,,2", "9999", "-1"] {
            assert!(parse_list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pinned_thread_counts_its_time() {
        std::thread::spawn(|| {
            let before = thread_time().unwrap();
            // One of the processors this process may run on, whichever it is.
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let allowed = status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
                .unwrap();
            let core = parse_list(allowed.trim()).unwrap().0[0];
            pin(core).unwrap();
            let mut sum = 0u64;
            while thread_time().unwrap() <= before {
                sum = std::hint::black_box(sum + 1);
            }
        })
        .join()
        .unwrap();
        assert!(process_time(std::process::id()).is_some());
    }

    #[test]
    fn a_process_stat_with_a_strange_name() {
        let text = "7 (a) b) R 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(parse_process_stat(text), Some(Duration::from_secs(2)));
    }

    #[test]
    fn the_listener_of_a_port_is_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listener_of(port), Some(std::process::id()));
    }
}

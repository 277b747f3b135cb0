//! What is said about configurations that cannot be: the important texts in full, of the others place and message.

use super::read;
use In::{Bdevs, File, Nvmf, Subsystem, Table};

/// Where a piece of text goes, so that a case shows only what is wrong in it.
enum In {
    /// The whole file.
    File,
    /// After [`BDEVS`].
    Bdevs,
    /// The table of the one device, from line 7 on.
    Table,
    /// `exports.nvmf`, from line 10 on.
    Nvmf,
    /// The namespaces of the one subsystem, and what follows them, from line 15 on.
    Subsystem,
}

const BDEVS: &str = "bdevs:
  - malloc: { name: ram0, size: 1MiB, block_size: 4096 }
  - malloc: { name: ram1, size: 1MiB }
";
const DEVICE: &str = "devices:
  - name: vol0
    table: |
";
const NVMF: &str = "      0 2048 linear ram0 0
exports:
  nvmf:
";
const SUBSYSTEM: &str = "    listeners: [ \"127.0.0.1:4420\", \"[::1]:4420\" ]
    subsystems:
      - nqn: nqn.2026-11.io:x
        hosts: any
        namespaces:
";

fn file(place: &In, text: &str) -> String {
    let before: &[&str] = match place {
        File => &[],
        Bdevs => &[BDEVS],
        Table => &[BDEVS, DEVICE],
        Nvmf => &[BDEVS, DEVICE, NVMF],
        Subsystem => &[BDEVS, DEVICE, NVMF, SUBSYSTEM],
    };
    format!("{}{text}", before.concat())
}

/// Texts and the whole error, word for word.
#[rustfmt::skip]
const IN_FULL: &[(In, &str, &str)] = &[
    (File, "",
r##"error: the configuration is empty
--> t.yaml
 = help: the smallest useful configuration has `bdevs`, `devices` and `exports`: see conf/quickstart.yaml"##),
    (File, r##"bdev: []
"##,
r##"error: unknown key `bdev`
 --> t.yaml:1:1
  |
1 | bdev: []
  | ^^^^
  |
  = help: did you mean `bdevs`? The keys here are `engine`, `spdk`, `reactors`, `control`, `metrics`, `bdevs`, `devices`, `exports`"##),
    (File, r##"reactors: { poll: bussy }
"##,
r##"error: `bussy` is not known here
 --> t.yaml:1:19
  |
1 | reactors: { poll: bussy }
  |                   ^^^^^
  |
  = help: did you mean `busy`? Possible are `busy`, `adaptive`"##),
    (File, r##"reactors:
  cores: [0, 7]
"##,
r##"error: CPU 7 is not one this process may run on
 --> t.yaml:2:14
  |
2 |   cores: [0, 7]
  |              ^
  |
  = help: its affinity mask has 0-3,6"##),
    #[cfg(not(feature = "spdk"))]
    (File, r##"engine: spdk
"##,
r##"error: this build of polldm has no SPDK engine
 --> t.yaml:1:9
  |
1 | engine: spdk
  |         ^^^^
  |
  = help: use `engine: native`, or leave it out; `cargo build --release --features spdk` builds one that has it, where SPDK is installed"##),
    (File, r##"bdevs:
  - malloc: { name: x, size: 1G }
"##,
r##"error: `G` is no unit of size in `1G`
 --> t.yaml:2:30
  |
2 |   - malloc: { name: x, size: 1G }
  |                              ^^
  |
  = help: write 1GiB (powers of 1024) or 1GB (powers of 1000)"##),
    (File, r##"bdevs:
  - malloc: { name: x, size: 1MiB, blocksize: 4096 }
"##,
r##"error: unknown key `blocksize`
 --> t.yaml:2:36
  |
2 |   - malloc: { name: x, size: 1MiB, blocksize: 4096 }
  |                                    ^^^^^^^^^
  |
  = help: did you mean `block_size`? The keys here are `name`, `size`, `block_size`, `volatile_cache`, `atomic_writes`"##),
    (File, r##"bdevs:
  - malloc: { name: x }
"##,
r##"error: the key `size` is missing here
 --> t.yaml:2:15
  |
2 |   - malloc: { name: x }
  |               ^^^^
  |
  = help: add `size: …`"##),
    (File, r##"bdevs:
  - null: { name: x, size: 1000, block_size: 512 }
"##,
r##"error: 1000 bytes are not whole blocks of 512 bytes
 --> t.yaml:2:28
  |
2 |   - null: { name: x, size: 1000, block_size: 512 }
  |                            ^^^^
  |
  = help: the nearest size that fits is 512 bytes"##),
    (File, r##"bdevs:
  - malloc: { name: "x, size: 1MiB }
"##,
r##"error: unclosed quote
 --> t.yaml:2:21
  |
2 |   - malloc: { name: "x, size: 1MiB }
  |                     ^"##),
    (Table, r##"      0 8 linear ram0 0
      # the next one
      16 8 linear ram9 8
"##,
r##"error: a gap in the table: the target starts at sector 16, but must start at 8
 --> t.yaml:9:7
  |
9 |       16 8 linear ram9 8
  |       ^^"##),
    (Table, r##"      0 8 linear ram0 0
      8 8 linear rma1 0
"##,
r##"error: there is neither a bdev nor a device 'rma1'
 --> t.yaml:8:18
  |
8 |       8 8 linear rma1 0
  |                  ^^^^
  |
  = help: did you mean 'ram1'?"##),
    (Table, r##"      0 2048 linear ram0 8
"##,
r##"error: sectors 8 to 2056 do not fit on 'ram0', which has 2048
 --> t.yaml:7:21
  |
7 |       0 2048 linear ram0 8
  |                     ^^^^^^
  |
  = help: from 8 on there is room for 2040 sectors"##),
    (Table, r##"      0 100 striped 2 16 ram0 0 ram1 0
"##,
r##"error: a length of 100 sectors does not divide into 2 stripes of whole chunks of 16: 96 would
 --> t.yaml:7:9
  |
7 |       0 100 striped 2 16 ram0 0 ram1 0
  |         ^^^"##),
    (Table, r##"      0 2048 lineer ram0 0
"##,
r##"error: unknown target type 'lineer'
 --> t.yaml:7:14
  |
7 |       0 2048 lineer ram0 0
  |              ^^^^^^
  |
  = help: did you mean 'linear'? There are delay, ebs, error, flakey, linear, multipath, striped, zero"##),
    (Table, r##"      0 16 striped 2 8 ram0 0 ram1
"##,
r##"error: 2 stripes need 2 pairs of device and start, and 3 words follow
 --> t.yaml:7:20
  |
7 |       0 16 striped 2 8 ram0 0 ram1
  |                    ^"##),
    (Table, r##"      0 8 linear ram0
"##,
r##"error: the start sector on the device is missing
 --> t.yaml:7:22
  |
7 |       0 8 linear ram0
  |                      ^
  |
  = help: a line is 'start length linear <device> <start>'"##),
    (Table, r##"      0 8 zero
      8 8 linear ram1 4
      16 8 linear ram0 0
"##,
r##"error: the start on the lower device 4 is not a multiple of the device's block of 8 sectors
 --> t.yaml:8:23
  |
8 |       8 8 linear ram1 4
  |                       ^
  |
  = help: 'ram0' has blocks of 4096 bytes, and so has the device"##),
    (Table, r##"      0 8 linear ram1 0
  - name: vol1
    table: |
      0 8 linear vol3 0
  - name: vol2
    table: |
      0 8 zero
      8 8 linear vol1 0
  - name: vol3
    table: |
      0 8 linear vol0 0
      8 8 linear vol2 0
"##,
r##"error: 'vol1' would be on itself
  --> t.yaml:14:18
   |
14 |       8 8 linear vol1 0
   |                  ^^^^
   |
   = help: 'vol1' is on 'vol3' is on 'vol2' is on 'vol1'"##),
    (Bdevs, r##"devices:
  - name: ram0
    table: 0 8 zero
"##,
r##"error: `ram0` is the name of a bdev
 --> t.yaml:5:11
  |
2 |   - malloc: { name: ram0, size: 1MiB, block_size: 4096 }
  |                     ---- the bdev
...
5 |   - name: ram0
  |           ^^^^
  |
  = help: bdevs and devices share one space of names, because a table line names either"##),
    (Subsystem, r##"          - { nsid: 1, device: vol0 }
          - { nsid: 1, device: vol0 }
"##,
r##"error: a second namespace 1 in this subsystem
  --> t.yaml:16:21
   |
15 |           - { nsid: 1, device: vol0 }
   |                     - the first
16 |           - { nsid: 1, device: vol0 }
   |                     ^
   |
   = help: every namespace of a subsystem needs an identifier of its own"##),
    (Subsystem, r##"          - { nsid: 1, device: ram0 }
"##,
r##"error: there is no device `ram0`
  --> t.yaml:15:32
   |
 2 |   - malloc: { name: ram0, size: 1MiB, block_size: 4096 }
   |                     ---- a bdev
...
15 |           - { nsid: 1, device: ram0 }
   |                                ^^^^
   |
   = help: `ram0` is a bdev; map a device on it, with the table `0 2048 linear ram0 0`"##),
    (Nvmf, r##"    listeners: [ "localhost:4420" ]
    subsystems: []
"##,
r##"error: `localhost:4420` is not an address and port
  --> t.yaml:10:18
   |
10 |     listeners: [ "localhost:4420" ]
   |                  ^^^^^^^^^^^^^^^^
   |
   = help: write "127.0.0.1:4420" or "[::1]:4420"; host names are not looked up"##),
    (Nvmf, r##"    listeners: []
    subsystems:
      - { nqn: nqn.2026-11.io, hosts: any, namespaces: [] }
"##,
r##"error: this NQN lacks the `:` and the identifier that follow the domain
  --> t.yaml:12:16
   |
12 |       - { nqn: nqn.2026-11.io, hosts: any, namespaces: [] }
   |                ^^^^^^^^^^^^^^
   |
   = help: an NQN is `nqn.YYYY-MM.reverse.domain:identifier`, such as nqn.2026-11.com.example:disks, or `nqn.2014-08.org.nvmexpress:uuid:` and a UUID"##),
];

/// Texts, the place (0, 0: the file as a whole), and the message.
#[rustfmt::skip]
const IN_SHORT: &[(In, &str, (u32, u32), &str)] = &[
    (File, "# nothing\n", (0, 0),
        "the configuration is empty"),
    (File, "---\n...\n", (0, 0),
        "the configuration is empty"),
    (File, "~\n", (0, 0),
        "the configuration is empty"),
    (File, "hello\n", (1, 1),
        "expected a map (`key: value`) here"),
    (File, "- a\n", (1, 1),
        "expected a map (`key: value`) here"),
    (File, "bdevs: 3\n", (1, 8),
        "expected a list here"),
    (File, "bdevs: [\n", (1, 8),
        "unclosed bracket '['"),
    (File, "bdevs:\n\t- a\n", (2, 2),
        "tabs disallowed within this context (block indentation)"),
    (File, "bdevs: []\nbdevs: []\n", (2, 1),
        "the key `bdevs` is given twice"),
    (File, "bdevs: []\n---\nbdevs: []\n", (3, 1),
        "a second YAML document begins here"),
    (File, "bdevs: *x\n", (1, 8),
        "this alias refers to an anchor that is not defined before it"),
    (File, "engine: {native: 3}\n", (1, 18),
        "expected a single word here"),
    (File, "engine: sdpk\n", (1, 9),
        "`sdpk` is not known here"),
    (File, "reactors: { cores: 2 }\n", (1, 20),
        "`cores: 2` could mean CPU 2 or 2 CPUs"),
    (File, "reactors: { cores: [] }\n", (1, 20),
        "the list of CPUs is empty"),
    (File, "reactors: { cores: [1, 1] }\n", (1, 24),
        "CPU 1 is listed twice"),
    (File, "reactors: { cores: [x] }\n", (1, 21),
        "`x` cannot stand here"),
    (File, "reactors: { cores: '3-1' }\n", (1, 20),
        "the range 3-1 runs backwards"),
    (File, "reactors: { cores: {a: b} }\n", (1, 20),
        "`{…}` is not a CPU number"),
    (File, "reactors: { cores: all }\n", (1, 20),
        "`all` is not a CPU number"),
    (File, "reactors: { cores: 0,0 }\n", (1, 22),
        "unknown key `0`"),
    (File, "reactors: { count: 0 }\n", (1, 20),
        "0 is no number of reactors"),
    (File, "reactors: { count: 257 }\n", (1, 20),
        "257 is no number of reactors"),
    (File, "reactors: { count: -1 }\n", (1, 20),
        "`-1` cannot stand here"),
    (File, "reactors: { poll: busy, spin_us: 3 }\n", (1, 34),
        "`spin_us` has no meaning with `poll: busy`"),
    (File, "reactors: { spin_us: 1000001 }\n", (1, 22),
        "1000001 us is too long to spin"),
    (File, "control: { socket: '' }\n", (1, 20),
        "a path cannot be empty"),
    (File, "metrics: { listen: 9090 }\n", (1, 20),
        "`9090` is not an address and port"),
    (File, "metrics: {}\n", (1, 10),
        "the key `listen` is missing here"),
    (File, "bdevs: [ malloc ]\n", (1, 17),
        "expected a map (`key: value`) here"),
    (File, "bdevs: [ 3 ]\n", (1, 10),
        "`3` is not known here"),
    (File, "bdevs: [ { malloc: } ]\n", (1, 10),
        "the key `name` is missing here"),
    (File, "bdevs: [ { malloc: { name: a, size: 1MiB }, null: { name: b, size: 1MiB } } ]\n", (1, 45),
        "a second key in a map that has just one"),
    (File, "bdevs: [ { maloc: {} } ]\n", (1, 12),
        "`maloc` is not known here"),
    (File, "bdevs: [ { malloc: { name: a b, size: 1MiB } } ]\n", (1, 28),
        "a name cannot contain white space, `\\` or control characters"),
    (File, "bdevs: [ { malloc: { name: , size: 1MiB } } ]\n", (1, 26),
        "the value is missing here"),
    (File, "bdevs: [ { malloc: { name: [a], size: 1MiB } } ]\n", (1, 28),
        "expected a single value here"),
    (File, "bdevs: [ { malloc: { name: a, size: } } ]\n", (1, 35),
        "the size is missing"),
    (File, "bdevs: [ { malloc: { name: a, size: [1] } } ]\n", (1, 37),
        "`[…]` is not a size"),
    (File, "bdevs: [ { malloc: { name: a, size: -3 } } ]\n", (1, 37),
        "`-3` is not a size"),
    (File, "bdevs: [ { malloc: { name: a, size: 1.5GiB } } ]\n", (1, 37),
        "the size `1.5GiB` is not a whole number"),
    (File, "bdevs: [ { malloc: { name: a, size: 9000PiB } } ]\n", (1, 37),
        "the size `9000PiB` is too large"),
    (File, "bdevs: [ { malloc: { name: a, size: 1MiB, block_size: 1024 } } ]\n", (1, 55),
        "`1024` is not a block size"),
    (File, "bdevs: [ { malloc: { name: a, size: 1MiB, volatile_cache: yes } } ]\n", (1, 59),
        "`yes` is neither true nor false"),
    (File, "bdevs: [ { malloc: { name: a, size: 1MiB } }, { null: { name: a, size: 1MiB } } ]\n", (1, 63),
        "a second bdev named `a`"),
    (File, "bdevs: [ { file: { name: a, path: p } }, { file: { name: b, path: p } } ]\n", (1, 67),
        "this file already belongs to another bdev"),
    (File, "bdevs: [ { file: { name: a, path: p, size: 1MiB, read_only: true } } ]\n", (1, 44),
        "a read-only file cannot be created or grown"),
    (File, "bdevs: [ { file: { name: a, path: p, direct: maybe } } ]\n", (1, 46),
        "`maybe` is not known here"),
    (File, "bdevs:\n - malloc: &a { name: a, size: 1MiB }\n - malloc: *a\n", (3, 12),
        "a second bdev named `a`"),
    (Table, "\n", (6, 12),
        "no target: a table has at least one line, 'start length type …'"),
    (Table, "      8 8 zero\n", (7, 7),
        "a gap in the table: the target starts at sector 8, but must start at 0"),
    (Table, "\n      # c\n      0 8 linear ram0 0\n\n      4 8 linear ram0 8\n", (11, 7),
        "an overlap in the table: the target starts at sector 4, but must start at 8"),
    (Table, "      0 0 zero\n", (7, 9),
        "the target has a length of 0 sectors"),
    (Table, "      0 18446744073709551615 zero\n", (7, 9),
        "the target ends past the largest device of 18014398509481983 sectors"),
    (Table, "      x 8 zero\n", (7, 7),
        "the start sector 'x' is not a decimal number"),
    (Table, "      0 8\n", (7, 10),
        "the target type is missing"),
    (Table, "      0 8 zero 1\n", (7, 16),
        "'1' is one word too many"),
    (Table, "      0 8 error ram0\n", (7, 17),
        "'ram0' is one word too many"),
    (Table, "      0 8 linear ram0\n", (7, 22),
        "the start sector on the device is missing"),
    (Table, "      0 8 linear ram0 -1\n", (7, 23),
        "the start sector on the device '-1' is not a decimal number"),
    (Table, "      0 8 linear vol0 0\n", (7, 18),
        "'vol0' would be on itself"),
    (Table, "      0 8 linear vol1 0\n  - { name: vol1, table: 0 7 zero }\n", (7, 18),
        "sectors 0 to 8 do not fit on 'vol1', which has 7"),
    (Table, "      0 8 linear vol1 0\n  - { name: vol1, table: 0 8 zeroo }\n", (8, 30),
        "unknown target type 'zeroo'"),
    (Table, "      0 8 linear ram0 4\n", (7, 23),
        "start 4 on 'ram0' is not a multiple of its block of 8 sectors"),
    (Table, "      0 9 linear ram0 0\n", (7, 9),
        "the length 9 is not a multiple of the device's block of 8 sectors"),
    (Table, "      0 9 zero\n      9 8 linear ram0 0\n", (7, 9),
        "the length 9 is not a multiple of the device's block of 8 sectors"),
    (Table, "      0 8 linear ram0 0\n      8 1 zero\n", (8, 9),
        "the length 1 is not a multiple of the device's block of 8 sectors"),
    (Table, "      0 8 striped\n", (7, 18),
        "the number of stripes is missing"),
    (Table, "      0 8 striped 0 8\n", (7, 19),
        "the number of stripes is 0; at least 1 is needed"),
    (Table, "      0 8 striped 1 0 ram0 0\n", (7, 21),
        "the chunk size is 0 sectors"),
    (Table, "      0 48 striped 3 16 ram0 0 ram1 0\n", (7, 20),
        "3 stripes need 3 pairs of device and start, and 4 words follow"),
    (Table, "      0 16 striped 2 4 ram1 0 ram0 0\n", (7, 22),
        "the chunk size 4 is not a multiple of the device's block of 8 sectors"),
    (Table, "      0 8192 striped 2 8 ram0 0 ram1 0\n", (7, 26),
        "sectors 0 to 4096 do not fit on 'ram0', which has 2048"),
    (Bdevs, "devices: [ { name: a, table: 0 8 zeroo } ]\n", (4, 34),
        "unknown target type 'zeroo'"),
    (Bdevs, "devices: [ { name: a, table: \"0 8 zero\\n8 8 zeroo\" } ]\n", (4, 30),
        "unknown target type 'zeroo'"),
    (Bdevs, "devices: [ { name: a/b, table: 0 8 zero } ]\n", (4, 20),
        "a name cannot contain `/`"),
    (Bdevs, "devices: [ { name: a, table: 0 8 zero }, { name: a, table: 0 8 zero } ]\n", (4, 50),
        "a second device named `a`"),
    (Bdevs, "devices: [ { name: a, uuid: u, table: 0 8 zero }, { name: b, uuid: u, table: 0 8 zero } ]\n", (4, 68),
        "a second device with this identifier"),
    (File, "bdevs: [ { file: { name: r, path: p, read_only: true } } ]\ndevices: [ { name: a, table: 0 8 linear r 0 } ]\n", (2, 41),
        "'r' is read-only, and 'a' is not"),
    (File, "devices: [ { name: a, table: 0 8 linear r 0 }, { name: r, table: 0 8 zero, read_only: true } ]\n", (1, 41),
        "'r' is read-only, and 'a' is not"),
    (File, "devices: [ { name: a, table: 0 8 linear r 0 } ]\n", (1, 41),
        "there is neither a bdev nor a device 'r'"),
    (Bdevs, "devices:\n  - name: a\n    table: &t |\n      0 8 zeroo\n  - name: b\n    table: *t\n", (7, 11),
        "unknown target type 'zeroo'"),
    (Subsystem, "          - { nsid: 0, device: vol0 }\n", (15, 21),
        "0 is not a namespace identifier"),
    (Subsystem, "          - { nsid: 1025, device: vol0 }\n", (15, 21),
        "1025 is not a namespace identifier"),
    (Subsystem, "          - { nsid: 1, device: vol0 }\n          - { nsid: 2, device: vol0 }\n", (16, 32),
        "`vol0` is already a namespace of this subsystem"),
    (Subsystem, "          - { nsid: 1, device: vol1 }\n", (15, 32),
        "there is no device `vol1`"),
    (Subsystem, "          - { nsid: 1, device: vol0, uuid: 12 }\n", (15, 44),
        "`12` is not a UUID"),
    (Subsystem, "          - { nsid: 1, device: vol0 }\n      - nqn: nqn.2026-11.io:x\n        hosts: any\n        namespaces: []\n", (16, 14),
        "a second subsystem with this NQN"),
    (Subsystem, "          []\n        listeners: [ 127.0.0.1:4420 ]\n", (16, 9),
        "unknown key `listeners`"),
    (Subsystem, "          []\n        serial: 123456789012345678901\n", (16, 17),
        "this serial number has 21 bytes; the field holds 20"),
    (Subsystem, "          []\n        ana: lost\n", (16, 14),
        "`lost` is not known here"),
    (Subsystem, "          []\n        model: é\n", (16, 16),
        "a model number is printable ASCII only"),
    (Nvmf, "    listeners: []\n    subsystems: [ { nqn: nqn.2014-08.org.nvmexpress.discovery, hosts: any, namespaces: [] } ]\n", (11, 26),
        "the discovery subsystem cannot be defined"),
    (Nvmf, "    listeners: []\n    subsystems: [ { nqn: 'nqn.2026-11.io:x', hosts: all, namespaces: [] } ]\n", (11, 53),
        "`all` is neither `any` nor a list of hosts"),
    (Nvmf, "    listeners: []\n    subsystems: [ { nqn: 'nqn.2026-11.io:x', hosts: [], namespaces: [] } ]\n", (11, 53),
        "an empty list lets no host in"),
    (Nvmf, "    listeners: []\n    subsystems: [ { nqn: 'nqn.2026-11.io:x', hosts: [any], namespaces: [] } ]\n", (11, 54),
        "`any` stands alone, not in a list"),
    (Nvmf, "    listeners: []\n    subsystems: [ { nqn: 'nqn.2026-11.io:x', hosts: ['nqn.2026-11.io:h', 'nqn.2026-11.io:h'], namespaces: [] } ]\n", (11, 74),
        "this host is listed twice"),
    (Nvmf, "    listeners: []\n    subsystems: [ { nqn: 'nqn.2026-11.io:x', namespaces: [] } ]\n", (11, 46),
        "the key `hosts` is missing here"),
    (Nvmf, "    listeners: [ 127.0.0.1:4420, 0.0.0.0:4420 ]\n    subsystems: []\n", (10, 34),
        "`127.0.0.1:4420` and `0.0.0.0:4420` cannot both be bound"),
    (Nvmf, "    listeners: [ 127.0.0.1:4420, 127.0.0.1:4420 ]\n    subsystems: []\n", (10, 34),
        "`127.0.0.1:4420` is listed twice"),
    (Nvmf, "    listeners: []\n    subsystems: []\n", (10, 16),
        "no host could reach this target"),
    (Nvmf, "    listeners: []\n    subsystems: []\n    queue_depth: 128\n", (12, 5),
        "unknown key `queue_depth`"),
    (File, "metrics: { listen: 127.0.0.1:4420 }\nexports: { nvmf: { listeners: [ 127.0.0.1:4420 ], subsystems: [] } }\n", (1, 20),
        "this address is also an NVMe/TCP listener"),
];

#[test]
fn important_errors_word_for_word() {
    for (place, text, expected) in IN_FULL {
        let text = file(place, text);
        let error = read(&text).expect_err(&text);
        assert_eq!(
            error.to_string(),
            *expected,
            "\n{error}\n-- instead of --\n{expected}"
        );
    }
}

#[test]
fn every_refusal_has_its_place_and_message() {
    for (place, text, position, message) in IN_SHORT {
        let text = file(place, text);
        let error = read(&text).expect_err(&text);
        let found = (error.position().unwrap_or_default(), error.message());
        assert_eq!(found, (*position, *message), "\n{error}");
    }
}

#[test]
fn what_follows_a_refused_name_is_never_lost_in_a_long_message() {
    let long = "x".repeat(100_000);
    for text in [
        format!("bdevs: [ {{ null: {{ name: a, size: {long} }} }} ]"),
        format!("{long}: 1"),
        format!("control: {{ socket: /{long} }}"),
        format!("devices: [ {{ name: {long}, table: 0 8 zero }} ]"),
        format!("devices: [ {{ name: a, table: 0 8 {long} }} ]"),
    ] {
        let error = read(&text).expect_err("too long to be anything");
        assert!(error.to_string().len() < 2_000, "{error}");
    }
}

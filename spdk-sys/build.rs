//! Finds an installed SPDK, generates bindings from its headers, compiles the shim, and says how to link.
//!
//! | variable | |
//! |---|---|
//! | `PKG_CONFIG_PATH` | where pkg-config looks for SPDK's .pc files, as ever |
//! | `SPDK_DIR` | where SPDK is installed (or was built); its .pc files come before all others |
//! | `SPDK_STATIC` | `1`: link SPDK's static libraries although there are shared ones |
//!
//! What differs between SPDK's versions is looked for in its headers, not concluded from its version.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the engine is linked with: SPDK's application framework, the NVMe-oF target, and all bdev and socket modules that were built. The
/// iSCSI target comes in addition where it is.
const PACKAGES: &[&str] = &[
    "spdk_event",
    "spdk_event_bdev",
    "spdk_event_nvmf",
    "spdk_bdev_modules",
    "spdk_sock_modules",
    "spdk_accel_modules",
    "spdk_env_dpdk",
    "spdk_dpdklibs",
    "spdk_syslibs",
];

/// SPDK's iSCSI target, which an SPDK can be built without.
const ISCSI: &str = "spdk_event_iscsi";

/// The header that says most of what the bindings need.
const BDEV_MODULE: &str = "spdk/bdev_module.h";

/// Functions that may be called, by regular expression: bindgen takes only these, and the types that they need.
const FUNCTIONS: &[&str] = &[
    "spdk_app_(opts_init|start|stop|fini)",
    "spdk_thread_(create|exit|send_msg|get_app_thread)",
    "spdk_(get|set)_thread",
    "spdk_poller_(register_named|unregister)",
    "spdk_(get|put)_io_channel",
    "spdk_io_device_(un)?register",
    "spdk_cpuset_set_cpu",
    "spdk_dma_(z?malloc|free)",
    "spdk_bdev_(open_ext|close|desc_get_bdev|get_io_channel)",
    "spdk_bdev_get_(module_name|module_ctx|num_blocks|block_size|md_size|write_unit_size)",
    "spdk_bdev_(has_write_cache|is_zoned|io_type_supported|unregister)",
    "spdk_bdev_(read|write|readv|writev|flush|unmap|write_zeroes)_blocks",
    "spdk_bdev_(register|notify_blockcnt_change|module_list_add|free_io|io_complete|io_complete_nvme_status)",
    "spdk_bdev_alias_(add|del_all)",
    "spdk_bdev_io_get_(nvme_status|thread|buf)",
    "spdk_bdev_nvme_io_passthru",
    "spdk_nvme_(ns_get_ctrlr|ctrlr_(get_opts|get_max_sges|is_fabrics))",
    "spdk_log_open",
    "polldm_log(_to)?",
    // The C library's: what is done at the end of the process, with its exit code.
    "on_exit",
];

fn main() {
    for variable in ["PKG_CONFIG_PATH", "SPDK_DIR", "SPDK_STATIC", "PKG_CONFIG"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    for file in ["wrapper.h", "shim.h", "shim.c", "build.rs"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let search = SearchPath::new();
    println!("cargo::rustc-check-cfg=cfg(spdk_iscsi)");
    if search.packages.contains(&ISCSI) {
        println!("cargo::rustc-cfg=spdk_iscsi");
    }
    let cflags = search.ask(&["--cflags"]);
    let library_directory = PathBuf::from(search.variable_libdir());
    let headers = Headers::find(&cflags, &library_directory);
    headers.check(&search);
    for (name, is_there) in [
        ("spdk_vfio_user", headers.configured("VFIO_USER")),
        ("spdk_rdma", headers.configured("RDMA")),
        ("spdk_dmrsl", headers.mention("spdk/nvmf.h", "dmrsl")),
        (
            "spdk_nvme_flush",
            headers.mention("spdk/module/bdev/nvme.h", "enable_flush"),
        ),
    ] {
        println!("cargo::rustc-check-cfg=cfg({name})");
        if is_there {
            println!("cargo::rustc-cfg={name}");
        }
    }
    bind(&cflags);
    let mut shim = cc::Build::new();
    shim.file("shim.c");
    for flag in &cflags {
        shim.flag(flag);
    }
    shim.compile("polldm_spdk_shim");
    let arguments = link_arguments(&search, &library_directory);
    for argument in &arguments {
        println!("cargo::rustc-link-arg={argument}");
    }
    // The crate that makes a program of this passes them on: cargo does so only for libraries by name, which cannot say "even if
    // nothing of it is named", and that is what the constructors of SPDK's modules need.
    println!("cargo::metadata=link_arguments={}", arguments.join(" "));
}

/// How pkg-config is asked.
struct SearchPath {
    /// `PKG_CONFIG_PATH` with what `SPDK_DIR` adds.
    path: String,
    program: String,
    /// [`PACKAGES`], and what else is there.
    packages: Vec<&'static str>,
}

impl SearchPath {
    fn new() -> SearchPath {
        let mut directories = Vec::new();
        if let Ok(directory) = env::var("SPDK_DIR") {
            for below in ["lib/pkgconfig", "lib64/pkgconfig", "build/lib/pkgconfig"] {
                directories.push(format!("{directory}/{below}"));
            }
        }
        if let Ok(path) = env::var("PKG_CONFIG_PATH") {
            directories.push(path);
        }
        let mut search = SearchPath {
            path: directories.join(":"),
            program: env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into()),
            packages: PACKAGES.to_vec(),
        };
        if search.exists(ISCSI) {
            search.packages.push(ISCSI);
        }
        search
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("PKG_CONFIG_PATH", &self.path)
            // The flags of directories that a compiler searches anyway are needed, too: as rpath.
            .env("PKG_CONFIG_ALLOW_SYSTEM_CFLAGS", "1");
        command
    }

    fn exists(&self, package: &str) -> bool {
        let status = self.command().args(["--exists", package]).status();
        status.is_ok_and(|status| status.success())
    }

    /// What pkg-config says of the packages that SPDK has here; ends the build, with what was looked for and where, if it has not all that
    /// is needed.
    fn ask(&self, options: &[&str]) -> Vec<String> {
        self.ask_of(&self.packages, options)
    }

    /// The same of some packages.
    fn ask_of(&self, packages: &[&str], options: &[&str]) -> Vec<String> {
        let output = self.command().args(options).args(packages).output();
        let said = match &output {
            Ok(output) if output.status.success() => {
                let text = String::from_utf8_lossy(&output.stdout);
                return text.split_whitespace().map(str::to_owned).collect();
            }
            Ok(output) => first_line(&output.stderr),
            Err(error) => format!("{} cannot be run: {error}", self.program),
        };
        let path = match self.path.as_str() {
            "" => "pkg-config's own directories (neither SPDK_DIR nor PKG_CONFIG_PATH is set)",
            path => path,
        };
        fail(&format!(
            "the feature `spdk` needs an installed SPDK, 24.09 or newer. Looked for its .pc files ({}) in: {path}. {said} Install SPDK and \
             set SPDK_DIR to where it is, or PKG_CONFIG_PATH to its lib/pkgconfig; without the feature nothing of SPDK is needed",
            PACKAGES.join(", "),
        ))
    }

    /// Where SPDK's libraries are: the directory that has the library of its application framework.
    fn variable_libdir(&self) -> String {
        let flags = self.ask(&["--libs-only-L", "--keep-system-libs"]);
        let directories = flags.iter().filter_map(|flag| flag.strip_prefix("-L"));
        let mut with_spdk = directories.filter(|directory| {
            ["so", "a"].iter().any(|ending| {
                Path::new(directory)
                    .join(format!("libspdk_event.{ending}"))
                    .exists()
            })
        });
        match with_spdk.next() {
            Some(directory) => directory.to_owned(),
            None => fail(&format!(
                "SPDK's .pc files name no directory that has libspdk_event.so or libspdk_event.a; they name: {}",
                flags.join(" ")
            )),
        }
    }
}

/// SPDK's headers: the directory that has them.
struct Headers(PathBuf);

impl Headers {
    fn find(cflags: &[String], library_directory: &Path) -> Headers {
        let mut includes = cflags.iter().filter_map(|flag| flag.strip_prefix("-I"));
        match includes.find(|directory| Path::new(directory).join(BDEV_MODULE).exists()) {
            Some(directory) => Headers(directory.into()),
            None => fail(&format!(
                "SPDK's libraries are in {}, but {BDEV_MODULE} is in none of the directories that its .pc files name: {}",
                library_directory.display(),
                cflags.join(" ")
            )),
        }
    }

    fn read(&self, name: &str) -> String {
        let header = self.0.join(name);
        std::fs::read_to_string(&header)
            .unwrap_or_else(|error| fail(&format!("{}: {error}", header.display())))
    }

    /// Whether there is a header that has a word.
    fn mention(&self, name: &str, word: &str) -> bool {
        std::fs::read_to_string(self.0.join(name)).is_ok_and(|text| text.contains(word))
    }

    /// They must be new enough for all that the bindings take for granted.
    fn check(&self, search: &SearchPath) {
        // Where a host's FUA bit arrives (24.05).
        if !self.read(BDEV_MODULE).contains("nvme_cdw12") {
            fail(&format!(
                "{} is of an SPDK that is too old{}: its I/O does not carry the bit that forces unit access (struct spdk_bdev_io, nvme_cdw12); \
                 24.09 or newer is needed. Install one, and set SPDK_DIR to where it is, or PKG_CONFIG_PATH to its lib/pkgconfig",
                self.0.join(BDEV_MODULE).display(),
                self.version(search),
            ));
        }
    }

    /// The version in brackets, as its header has it; only to be told.
    fn version(&self, search: &SearchPath) -> String {
        let text = std::fs::read_to_string(self.0.join("spdk/version.h")).unwrap_or_default();
        let number = |name: &str| -> Option<u32> {
            let lines = text.lines().filter_map(|line| line.strip_prefix("#define"));
            let mut words = lines.map(str::split_whitespace);
            let value =
                words.find_map(|mut words| (words.next() == Some(name)).then(|| words.next()));
            value??.parse().ok()
        };
        match (number("SPDK_VERSION_MAJOR"), number("SPDK_VERSION_MINOR")) {
            (Some(major), Some(minor)) => format!(" ({major}.{minor:02})"),
            _ => format!(" (found in {})", search.path),
        }
    }

    /// Whether SPDK was built with something that it can be built without.
    fn configured(&self, what: &str) -> bool {
        let wanted = format!("#define SPDK_CONFIG_{what} 1");
        self.read("spdk/config.h")
            .lines()
            .any(|line| line.trim() == wanted)
    }
}

fn bind(cflags: &[String]) {
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(cflags)
        .layout_tests(false)
        .generate_comments(false)
        .prepend_enum_name(false)
        .derive_default(false)
        .derive_debug(false)
        .rust_edition(bindgen::RustEdition::Edition2024);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for name in [
        "spdk_bdev",
        "spdk_bdev_io",
        "spdk_bdev_module",
        "spdk_bdev_fn_table",
    ] {
        builder = builder.allowlist_type(name);
    }
    // Where a channel's own memory begins, by an inline function of SPDK's.
    builder = builder.allowlist_var("SPDK_IO_CHANNEL_STRUCT_SIZE");
    let bindings = builder.generate().unwrap_or_else(|error| {
        fail(&format!(
            "bindings of SPDK's headers cannot be made: {error}"
        ))
    });
    let output = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it")).join("bindings.rs");
    bindings
        .write_to_file(&output)
        .unwrap_or_else(|error| fail(&format!("{}: {error}", output.display())));
}

/// What the linker is told. Every library is kept although nothing names it: bdev modules, socket implementations and subsystems make
/// themselves known by constructors.
fn link_arguments(search: &SearchPath, library_directory: &Path) -> Vec<String> {
    let shared = library_directory.join("libspdk_event.so").exists();
    let wants_static = env::var("SPDK_STATIC").is_ok_and(|value| value == "1");
    // Before those that are searched anyway, which may have another ISA-L than the one that SPDK was built with.
    let directories = search.ask(&["--libs-only-L", "--static"]);
    let mut arguments = directories.clone();
    if shared && !wants_static {
        arguments.push("-Wl,--no-as-needed".into());
        arguments.extend(search.ask(&["--libs", "--keep-system-libs"]));
        // 24.09's libraries do not say that they need OpenSSL and ISA-L, which its .pc files have for static libraries only.
        arguments.extend(search.ask_of(&["spdk_syslibs"], &["--libs", "--static"]));
        arguments.push("-Wl,--as-needed".into());
        arguments.extend(runpaths(&directories, library_directory));
        return arguments;
    }
    let all = search.ask(&["--libs", "--static", "--keep-system-libs"]);
    let (spdk, others): (Vec<String>, Vec<String>) = all
        .into_iter()
        .partition(|flag| flag.starts_with("-lspdk_"));
    let (all_directories, others): (Vec<String>, Vec<String>) =
        others.into_iter().partition(|flag| flag.starts_with("-L"));
    arguments.extend(all_directories);
    arguments.push("-Wl,--whole-archive".into());
    arguments.extend(spdk.iter().map(|flag| format!("-l:lib{}.a", &flag[2..])));
    arguments.push("-Wl,--no-whole-archive".into());
    // DPDK's drivers (the ring of a memory pool among them) are found by constructors as well.
    arguments.push("-Wl,--no-as-needed".into());
    arguments.extend(others);
    arguments.push("-Wl,--as-needed".into());
    arguments.extend(runpaths(&directories, library_directory));
    arguments
}

/// Where the program finds shared libraries when it runs: where SPDK's are, and wherever else its .pc files name directories that the system does not
/// search anyway. In a tree where SPDK was built and not installed ISA-L is in one of its own, and so is a DPDK that was built for it.
fn runpaths(flags: &[String], library_directory: &Path) -> Vec<String> {
    let mut directories = vec![library_directory.display().to_string()];
    for directory in flags.iter().filter_map(|flag| flag.strip_prefix("-L")) {
        if directories.iter().all(|known| known != directory) {
            directories.push(directory.to_owned());
        }
    }
    let argument = |directory: &String| format!("-Wl,-rpath,{directory}");
    directories.iter().map(argument).collect()
}

fn first_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    format!(
        "pkg-config says: {}.",
        text.lines()
            .next()
            .unwrap_or("nothing")
            .trim_end_matches('.')
    )
}

/// Ends the build with one error.
fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    std::process::exit(1)
}

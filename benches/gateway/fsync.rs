//! A small library between a program and fdatasync: it counts the syncs, and can leave out those of the write-ahead
//! log, which is what `synchronous = normal` leaves out. The product has no such setting, and shall have none.

use std::path::Path;
use std::process::Command;

use super::product::Environment;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static long *count;
static int skip;
__attribute__((constructor)) static void start(void) {
    int file = open(getenv("BENCH_SYNCS"), O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, 8)) return;
    count = mmap(0, 8, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    skip = getenv("BENCH_SKIP_WAL") != 0;
}
static int either(int file, const char *name) {
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    if (length > 4 && !memcmp(path + length - 4, "-wal", 4)) {
        if (count) __sync_fetch_and_add(count, 1);
        if (skip) return 0;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(file);
}
int fdatasync(int file) { return either(file, "fdatasync"); }
int fsync(int file) { return either(file, "fsync"); }
"#;

/// The environment that puts the library in place; none without a C compiler.
pub fn library(folder: &Path, skip: bool) -> Option<Environment> {
    let (source, library) = (folder.join("syncs.c"), folder.join("syncs.so"));
    std::fs::write(&source, SOURCE).ok()?;
    let made =
        Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    if !made.is_ok_and(|status| status.success()) {
        return None;
    }
    let counter = counter(folder, skip);
    let mut list =
        vec![("LD_PRELOAD".to_string(), library.display().to_string()), ("BENCH_SYNCS".to_string(), counter)];
    if skip {
        list.push(("BENCH_SKIP_WAL".into(), "1".into()));
    }
    Some(list)
}

fn counter(folder: &Path, skip: bool) -> String {
    folder.join(if skip { "syncs-normal" } else { "syncs-full" }).display().to_string()
}

/// Syncs of the write-ahead log so far.
pub fn counted(folder: &Path, skip: bool) -> u64 {
    let bytes = std::fs::read(counter(folder, skip)).unwrap_or_default();
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

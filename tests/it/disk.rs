//! The disk is full, again and again, in the middle of writes: what can't be stored is refused, what was acknowledged is
//! there, and all goes on when there is room again. The program runs over a small library that takes so many writes to the
//! database's files and no more (the linker of every Rust is a C compiler as well).

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use loopgate::demo::patient;
use loopgate::store::Kind;
use reqwest::Method;
use serde_json::{Value, json};

use crate::bursts::{Hooks, made, task, wish};
use crate::notifications::{numbers, says};
use crate::running::{Running, now, random};

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/types.h>
static int full(int file) {
    char link[64], path[512], text[32] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 1) return 0;
    path[length] = 0;
    const char *room = getenv("TEST_DISK_ROOM");
    if (!room || !strstr(path, "gateway.db")) return 0;
    int left = open(room, O_RDWR);
    if (left < 0) return 0;
    ssize_t got = pread(left, text, sizeof text - 1, 0);
    long many = got > 0 ? atol(text) : 0;
    int (*again)(int, off_t) = (int (*)(int, off_t))dlsym(RTLD_NEXT, "ftruncate");
    if (many > 0) {
        snprintf(text, sizeof text, "%ld ", many - 1);
        ssize_t (*real)(int, const void *, size_t, off_t) =
            (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
        again(left, 0);
        real(left, text, strlen(text), 0);
    }
    close(left);
    if (many <= 0) errno = ENOSPC;
    return many <= 0;
}
ssize_t write(int file, const void *from, size_t size) {
    ssize_t (*real)(int, const void *, size_t) = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return full(file) ? -1 : real(file, from, size);
}
ssize_t pwrite(int file, const void *from, size_t size, off_t at) {
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    return full(file) ? -1 : real(file, from, size, at);
}
ssize_t pwrite64(int file, const void *from, size_t size, off64_t at) {
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    return full(file) ? -1 : real(file, from, size, at);
}
"#;

/// The disk that the database of a program lies on.
struct Disk(PathBuf);

impl Disk {
    fn under(running: &mut Running) -> Disk {
        let folder = running.folder.path();
        let (source, library, room) = (folder.join("disk.c"), folder.join("disk.so"), folder.join("room"));
        std::fs::write(&source, SOURCE).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
        assert!(compiler.status().expect("a C compiler").success());
        running.environment = [("LD_PRELOAD", &library), ("TEST_DISK_ROOM", &room)]
            .map(|(name, path)| (name.to_string(), path.display().to_string()))
            .to_vec();
        Disk(room)
    }
    /// So many writes fit, and then none.
    fn has_room_for(&self, writes: u64) {
        std::fs::write(&self.0, format!("{writes} ")).unwrap();
    }
    fn has_room(&self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

async fn put(running: &Running, body: &Value) -> (u16, Value) {
    let path = format!("/fhir/Task/{}", body["id"].as_str().unwrap());
    let asking = running.ask("clinic", Method::PUT, &path).header("content-type", "application/fhir+json");
    let answer = asking.body(body.to_string()).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
}

async fn ready(running: &Running) -> (u16, Value) {
    let answer = running.http.get(running.url("/health/ready")).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

// S-060, S-066, F4
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_loses_nothing() {
    let mut running = Running::prepared(None).await;
    let disk = Disk::under(&mut running);
    (running.timeout, running.pause) = ("1s", "100ms");
    running.start().await;
    let hooks = Hooks::open().await;
    let mut subject = patient::context(&now()).into_iter().find(|one| one["resourceType"] == "Patient").unwrap();
    subject.as_object_mut().unwrap().shift_remove("id");
    let subject = format!("Patient/{}", made(&running, "Patient", &subject).await["id"].as_str().unwrap());
    let subscription = made(&running, "Subscription", &wish(&hooks, "/a", "id-only", None, Some(3))).await;
    let subscription = format!("/fhir/Subscription/{}", subscription["id"].as_str().unwrap());
    running
        .until("active", async || {
            running.get("clinic", &subscription).await.is_some_and(|one| one["status"] == "active")
        })
        .await;
    let id = made(&running, "Task", &task(&subject, "made")).await["id"].as_str().unwrap().to_string();
    let mut versions = 1;
    for round in 0..25 {
        disk.has_room_for(random(200));
        let mut body = task(&subject, "");
        body["id"] = json!(id);
        for number in 0.. {
            body["description"] = json!(format!("{round}, {number}"));
            let (status, said) = put(&running, &body).await;
            if status == 200 {
                versions += 1;
                assert_eq!(said["meta"]["versionId"], json!(versions.to_string()), "nothing of what failed is there");
                continue;
            }
            assert_eq!(status, 503, "{said}");
            assert_eq!(said["issue"][0]["code"], "transient", "{said}");
            break;
        }
        for path in ["/health/live", "/fhir/metadata"] {
            assert_eq!(running.http.get(running.url(path)).send().await.unwrap().status(), 200, "{path}");
        }
        let asks = round % 12 == 0;
        if asks {
            let full = json!({"status": "unavailable", "reason": "The disk of the database is full."});
            running.until("not ready", async || ready(&running).await == (503, full.clone())).await;
        }
        disk.has_room();
        body["description"] = json!(format!("{round}, and room again"));
        assert_eq!(put(&running, &body).await.0, 200, "at once");
        versions += 1;
        if asks {
            running.until("ready", async || ready(&running).await == (200, json!({"status": "ready"}))).await;
        }
        if round == 12 {
            running.kill();
            running.start().await;
        }
    }
    let told = |bundle: &Value| says(bundle, "type") == "event-notification";
    let all: Vec<i64> = (1..=versions).collect();
    running
        .until("all is told", async || {
            hooks.of("/a").iter().filter(|one| told(one)).any(|one| numbers(one).contains(&versions))
        })
        .await;
    let mut highest = 0;
    for bundle in hooks.of("/a").iter().filter(|one| told(one)) {
        let numbers = numbers(bundle);
        assert!(numbers[0] <= highest + 1, "{numbers:?} after {highest}");
        highest = highest.max(*numbers.last().unwrap());
    }
    assert_eq!(highest, versions);
    assert_eq!(numbers(&running.get("clinic", &format!("{subscription}/$events")).await.unwrap()), all);
    let history = running.get("clinic", &format!("/fhir/Task/{id}/_history?_count=1000")).await.unwrap();
    assert_eq!(history["entry"].as_array().unwrap().len() as i64, versions);
    let store = loopgate::store::Store::open(&running.database, loopgate::time::Clock::system()).await.unwrap();
    let checked = store.read().await.unwrap().one("pragma integrity_check", Vec::new()).await.unwrap().unwrap();
    assert_eq!(checked.text(0).unwrap(), "ok");
    let id = subscription.rsplit('/').next().unwrap();
    let tries = store.read().await.unwrap().attempts(Kind::Notify, id).await.unwrap();
    assert!(tries.iter().all(|one| one.outcome == "done"), "our disk is not the subscriber's failure: {tries:?}");
    running.log_is_clean();
    assert!(running.log().contains("disk is full"), "{}", running.log());
    assert!(running.stop().1 < Duration::from_secs(10));
}

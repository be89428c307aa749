//! Owns where the real parts lie that `make` fetches or builds. Refuses to fetch them: what is
//! missing is named, with the command that brings it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

const KAFKA: &str = "kafka-4.3.1";
const JAEGER: &str = "jaeger-2.13.0";

/// The folder of Apache Kafka's jars: `$KAFKA_HOME/libs`, or what `make kafka` has put in the cache.
pub fn kafka_libs() -> anyhow::Result<PathBuf> {
    let home = match env::var_os("KAFKA_HOME") {
        Some(home) => PathBuf::from(home),
        None => cache()?.join(KAFKA),
    };
    let libs = home.join("libs");
    ensure!(
        has_kafka(&libs),
        "Apache Kafka's jars are not in {}: type `make kafka`",
        libs.display()
    );
    Ok(libs)
}

/// The Java that runs Kafka: `$JAVA_HOME/bin/java`, or the first on the PATH.
pub fn java() -> anyhow::Result<PathBuf> {
    let home = env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = home.into_iter().chain(env::split_paths(&path));
    let java = folders.find_map(|folder| Some(folder.join("java")).filter(|java| java.is_file()));
    java.context("there is no java, which runs Kafka: type `make kafka`")
}

/// Jaeger's program: `$JAEGER_BIN`, or what `make jaeger` has built.
pub fn jaeger() -> anyhow::Result<PathBuf> {
    let jaeger = match env::var_os("JAEGER_BIN") {
        Some(program) => PathBuf::from(program),
        None => cache()?.join(format!("{JAEGER}-linux-{}", machine())),
    };
    ensure!(jaeger.is_file(), "Jaeger is not at {}: type `make jaeger`", jaeger.display());
    Ok(jaeger)
}

/// Outside every build's folder, so that what takes minutes is made once on a machine.
fn cache() -> anyhow::Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("switchback"))
}

/// As Go calls it.
fn machine() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn has_kafka(libs: &Path) -> bool {
    let files = fs::read_dir(libs).into_iter().flatten().flatten();
    let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names.any(|name| name.starts_with("kafka_"))
}

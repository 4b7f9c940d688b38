//! What the end-to-end tests need beside the project: others' clients, which they hold against
//! the hub, and a program.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::root;

const NODE: u32 = 20;
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Installs what is not there yet. Without a network, a line that says what is missing.
pub(crate) fn install() -> Result<(), String> {
    let folder = root().join("tests/clients");
    programs()?;
    check_node()?;
    npm(&folder)?;
    python(&folder)?;
    browser()?;
    network()?;
    pooler()?;
    proxies()
}

/// What a person would use.
fn programs() -> Result<(), String> {
    system_program("curl", "curl", "curl")?;
    system_program("psql", "psql", "postgresql-client")?;
    system_program("ps", "ps", "procps")
}

fn check_node() -> Result<(), String> {
    let needs = format!("the tests need Node.js {NODE} or newer with npm: https://nodejs.org");
    let version = output(Command::new("node").arg("--version"));
    let version = version.map_err(|_| needs.clone())?;
    let major = version.trim_start_matches('v').split('.').next();
    match major.and_then(|major| major.parse::<u32>().ok()) {
        // Debian has npm in a package of its own.
        Some(NODE..) if !is_there("npm") => Err(needs),
        Some(NODE..) => Ok(()),
        _ => Err(format!("{needs}; this is {}", version.trim())),
    }
}

fn npm(folder: &Path) -> Result<(), String> {
    let lock = folder.join("package-lock.json");
    let mark = folder.join("node_modules/.installed");
    if is_same(&lock, &mark) {
        return Ok(());
    }
    let mut npm = Command::new("npm");
    npm.current_dir(folder)
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .args(["--fetch-retries=1", "--fetch-timeout=20000"]);
    run(&mut npm, "npm ci in tests/clients")?;
    remember(&lock, &mark)
}

fn python(folder: &Path) -> Result<(), String> {
    let requirements = folder.join("requirements.txt");
    let venv = folder.join(".venv");
    let mark = venv.join("installed.txt");
    if is_same(&requirements, &mark) {
        return Ok(());
    }
    // Debian leaves out what makes it whole.
    if output(Command::new("python3").args(["-c", "import ensurepip"])).is_err() {
        apt_get("Python 3 with venv", "python3-venv")?;
    }
    run(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv),
        "python3 -m venv tests/clients/.venv",
    )?;
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--disable-pip-version-check"])
        .args(["--no-deps", "--retries", "1", "--timeout", "20"])
        .arg("--requirement")
        .arg(&requirements);
    run(&mut pip, "pip install -r tests/clients/requirements.txt")?;
    remember(&requirements, &mark)
}

fn browser() -> Result<(), String> {
    if BROWSERS.into_iter().any(is_there) {
        return Ok(());
    }
    apt_get("Chromium", "chromium")
}

/// Makes the network that a test cuts.
fn network() -> Result<(), String> {
    if is_there("ip") {
        return Ok(());
    }
    apt_get("the program ip", "iproute2")
}

/// Stands between the doctor and its patient.
fn pooler() -> Result<(), String> {
    system_program("PgBouncer", "pgbouncer", "pgbouncer")
}

/// What people put before a hub, and what makes their certificates.
fn proxies() -> Result<(), String> {
    system_program("nginx", "nginx", "nginx-light")?;
    system_program("HAProxy", "haproxy", "haproxy")?;
    system_program("Caddy", "caddy", "caddy")?;
    system_program("OpenSSL", "openssl", "openssl")
}

fn system_program(what: &str, program: &str, package: &str) -> Result<(), String> {
    // Where Debian puts daemons, which is not on everybody's path.
    if is_there(program) || Path::new("/usr/sbin").join(program).is_file() {
        return Ok(());
    }
    apt_get(what, package)
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn apt_get(what: &str, package: &str) -> Result<(), String> {
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !is_root || !is_there("apt-get") {
        return Err(format!(
            "the tests need {what}: apt-get install {package}, as root"
        ));
    }
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-y", "-o", "Acquire::Retries=1"])
            .args(["-o", "Acquire::http::Timeout=20"])
            .args(["-o", "Acquire::https::Timeout=20"])
            .args(["-o", "DPkg::Lock::Timeout=60"])
            .args(args);
        run(&mut apt, &format!("apt-get {}", args.join(" ")))
    };
    apt(&["update"])?;
    apt(&["install", "--no-install-recommends", package])
}

/// Whether this file was the one at the last installation.
fn is_same(file: &Path, mark: &Path) -> bool {
    fs::read(file).is_ok_and(|wanted| fs::read(mark).is_ok_and(|had| had == wanted))
}

fn remember(file: &Path, mark: &Path) -> Result<(), String> {
    fs::copy(file, mark).map_err(|error| format!("cannot write {}: {error}", mark.display()))?;
    Ok(())
}

/// Runs a program silently, or tells in one line why it failed.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<(), String> {
    eprintln!("+ {what}");
    output(command)
        .map(drop)
        .map_err(|why| format!("the tests need what this installs: {what}: {why}"))
}

/// What it prints, or the first line that looks like a reason.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reasons = ["npm error", "ERROR:", "E:"];
    let reason = said
        .lines()
        .find(|line| reasons.iter().any(|reason| line.starts_with(reason)))
        .or_else(|| said.lines().next_back())
        .unwrap_or("it says nothing");
    Err(format!("{} ({})", reason.trim(), output.status))
}

//! nginx, serving a folder of files.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::ports;
use super::server::terminate;

/// A running nginx; asked to stop when dropped.
pub struct Nginx {
    child: Child,
    pub url: String,
}

impl Nginx {
    /// Serves a folder, with a configuration that knows nothing of what is in it.
    pub fn start(scratch: &Path, root: &Path) -> Self {
        let address = ports::free();
        let server = format!("server {{ listen {address}; root {}; }}", root.display());
        Self::with(scratch, address, &server)
    }

    /// Runs with the text of the block `http`, one of whose servers listens at the address.
    pub fn with(scratch: &Path, address: SocketAddr, servers: &str) -> Self {
        let own = scratch.join("nginx");
        fs::create_dir(&own).unwrap();
        let text = format!(
            "daemon off; pid {own}/pid; error_log {own}/error.log; {user}
             events {{ worker_connections 256; }}
             http {{ access_log off; client_body_temp_path {own}/a; proxy_temp_path {own}/b; fastcgi_temp_path {own}/c;
                uwsgi_temp_path {own}/d; scgi_temp_path {own}/e;
                {servers} }}",
            own = own.display(),
            user = if rustix::process::geteuid().is_root() { "user root;" } else { "" },
        );
        fs::write(own.join("nginx.conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-c").arg(own.join("nginx.conf")).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("nginx runs");
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = child.try_wait().unwrap();
            let waited = begin.elapsed() < Duration::from_secs(60);
            let said = || fs::read_to_string(own.join("error.log")).unwrap_or_default();
            assert!(ended.is_none() && waited, "nginx does not listen: {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, url: format!("http://{address}") }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers when asked to, not when killed.
        terminate(&self.child);
        let _ = self.child.wait();
    }
}

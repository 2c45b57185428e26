//! nginx as the origin: plain HTTP and TLS on loopback, from one folder of files.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::{Folder, free_port, write};
use crate::pattern;
use crate::programs::{Server, run, tool};

/// How many files stand under `/small/`, and how long each is.
pub(crate) const SMALL_FILES: usize = 25;
const SMALL_BYTES: usize = 4096;

/// A running nginx with its files and its certificate authority.
pub(crate) struct Nginx {
    server: Server,
    tls_port: u16,
    // After the server, so that it goes away after it.
    folder: Folder,
}

impl Nginx {
    pub(crate) fn start() -> Self {
        let folder = Folder::new();
        make_certificates(folder.path());
        make_files(&folder.path().join("www"));
        let (port, tls_port) = (free_port(), free_port());
        let config = folder.write("nginx.conf", configuration(folder.path(), port, tls_port));
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(config)
            .args(["-e", "error.log"]);
        let server = Server::start(&mut command, folder.path().join("output"), port);
        Self {
            server,
            tls_port,
            folder,
        }
    }

    /// The folder that is served.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("www")
    }

    /// Puts one more file up.
    pub(crate) fn publish(&self, path: &str, content: &[u8]) {
        write(&self.root().join(path), content);
    }

    /// The certificate authority that clients have to be told to trust.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.server.port())
    }

    pub(crate) fn tls_url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.tls_port)
    }

    pub(crate) fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// What a health probe may ask for: answered with 204.
    pub(crate) fn probe_url(&self) -> String {
        self.url("/generate_204")
    }
}

fn configuration(folder: &Path, port: u16, tls_port: u16) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; worker_processes 1; worker_rlimit_nofile 4096;
         pid nginx.pid;
         events {{ worker_connections 4000; }}
         http {{
           access_log access.log;
           client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
           uwsgi_temp_path uwsgi; scgi_temp_path scgi;
           types {{ text/html html; }}
           default_type application/octet-stream;
           keepalive_requests 1000000;
           client_max_body_size 0;
           gzip on; gzip_min_length 1; gzip_proxied any;
           server {{
             listen 127.0.0.1:{port};
             listen 127.0.0.1:{tls_port} ssl;
             ssl_certificate {folder}/leaf.pem;
             ssl_certificate_key {folder}/leaf.key;
             root {folder}/www;
             location = /generate_204 {{ return 204; }}
             location = /moved {{ return 302 /small/1.bin; }}
             location /slow/ {{ limit_rate 20m; }}
             location /up/ {{ dav_methods PUT DELETE; create_full_put_path on; }}
             location /narrow/ {{ client_max_body_size 1k; dav_methods PUT; }}
           }}
         }}"
    )
}

fn make_files(root: &Path) {
    for number in 0..SMALL_FILES {
        write(&root.join(format!("small/{number}.bin")), small(number));
    }
    write(&root.join("20m.bin"), pattern::bytes(2, 20_000_000));
    write(&root.join("page.html"), PAGE);
    write(
        &root.join("text.html"),
        "a line that compresses well\n".repeat(10_000),
    );
}

/// The content of one of the files under `/small/`.
pub(crate) fn small(number: usize) -> Vec<u8> {
    pattern::bytes(100 + number as u64, SMALL_BYTES)
}

/// Fetches every small file from within a page and says how many came whole.
const PAGE: &str = r#"<!doctype html><title>relay</title><p id="result">waiting</p><script>
const sizes = Array.from({length: 25}, (_, number) =>
  fetch(`/small/${number}.bin`).then(r => r.arrayBuffer()).then(body => body.byteLength));
Promise.all(sizes).then(
  all => { document.getElementById("result").textContent =
    `fetched ${all.filter(size => size === 4096).length}`; },
  error => { document.getElementById("result").textContent = `failed ${error}`; });
</script>
"#;

/// A certificate authority, and a certificate of it for 127.0.0.1.
fn make_certificates(folder: &Path) {
    let openssl = |line: &str| {
        run(tool("openssl", folder).args(line.split_whitespace())).expect_success();
    };
    write(
        &folder.join("extensions"),
        "basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n",
    );
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=relay-test \
         -addext basicConstraints=critical,CA:TRUE \
         -addext keyUsage=critical,keyCertSign,cRLSign",
    );
    openssl("req -newkey rsa:2048 -nodes -keyout leaf.key -out leaf.csr -subj /CN=127.0.0.1");
    openssl(
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out leaf.pem \
         -extfile extensions",
    );
}

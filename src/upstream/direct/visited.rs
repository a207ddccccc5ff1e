//! The repositories that git visited over HTTP.
//!
//! A server may redirect git to another repository, and the output of the go command names only the first one. So git
//! writes the heads of its requests to a file in the scratch folder, without their credentials.

use std::path::Path;

/// The file, relative to the folder of a run.
pub(super) const TRACE: &str = "tmp/requests";

/// The ends of the URLs at which git looks for a repository.
const ENDS: [&str; 2] = ["/info/refs", "/git-upload-pack"];

/// Returns the URLs of the repositories that git visited in a run, without duplicates.
pub(super) async fn read(folder: &Path) -> Vec<String> {
    // Without a request there is no file.
    let trace = tokio::fs::read(folder.join(TRACE)).await.unwrap_or_default();
    parse(&String::from_utf8_lossy(&trace))
}

fn parse(trace: &str) -> Vec<String> {
    let mut visited: Vec<String> = Vec::new();
    let mut repository = None;
    for line in trace.lines().filter_map(|line| Some(line.split_once("=> Send header: ")?.1)) {
        if let Some(target) = line.strip_prefix("GET ").or_else(|| line.strip_prefix("POST ")) {
            let path = target.split([' ', '?']).next().unwrap_or_default();
            repository = ENDS.iter().find_map(|end| path.strip_suffix(end));
        } else if let Some((name, host)) = line.split_once(':')
            && name.eq_ignore_ascii_case("host")
            && let Some(path) = repository.take()
        {
            let url = format!("https://{}{path}", host.trim());
            if !visited.contains(&url) {
                visited.push(url);
            }
        }
    }
    visited
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn redirected_requests_name_a_repository_of_their_own() {
        let trace = "\
12:00:00.1 http.c:684  => Send header: CONNECT a.example:443 HTTP/1.1
12:00:00.1 http.c:684  => Send header: Host: a.example:443
12:00:00.1 http.c:684  => Send header: GET /moved/x.git/info/refs?service=git-upload-pack HTTP/1.1
12:00:00.1 http.c:684  => Send header: Host: a.example
12:00:00.1 http.c:684  <= Recv header: Location: https://b.example/x.git/info/refs?service=git-upload-pack
12:00:00.2 http.c:684  => Send header: GET /x.git/info/refs?service=git-upload-pack HTTP/2
12:00:00.2 http.c:684  => Send header: host: b.example
12:00:00.2 http.c:684  => Send header: POST /x.git/git-upload-pack HTTP/2
12:00:00.2 http.c:684  => Send header: host: b.example
12:00:00.2 http.c:684  => Send header: GET /x.git/objects/info/packs HTTP/2
12:00:00.2 http.c:684  => Send header: host: b.example
";
        assert_eq!(parse(trace), ["https://a.example/moved/x.git", "https://b.example/x.git"]);
        assert!(parse("").is_empty());
    }
}

//! A real program whose dependencies have what is odd in module paths and versions: capitals, majors in
//! folders, `+incompatible`, pseudo-versions.

use std::fs;
use std::path::Path;

/// Packages of the program; their modules and what these need make more than 40.
const PACKAGES: [&str; 24] = [
    "github.com/Azure/go-autorest/autorest/to",
    "github.com/BurntSushi/toml",
    "github.com/Masterminds/semver/v3",
    "github.com/Masterminds/sprig/v3",
    "github.com/cespare/xxhash/v2",
    "github.com/dgrijalva/jwt-go",
    "github.com/evanphx/json-patch",
    "github.com/go-chi/chi/v5",
    "github.com/gofrs/uuid",
    "github.com/golang/snappy",
    "github.com/jackc/pgx/v5",
    "github.com/mitchellh/go-homedir",
    "github.com/opencontainers/go-digest",
    "github.com/pkg/errors",
    "github.com/rcrowley/go-metrics",
    "github.com/spf13/cobra",
    "github.com/ulikunitz/xz",
    "go.opentelemetry.io/otel",
    "go.uber.org/zap",
    "golang.org/x/text/language",
    "gopkg.in/ini.v1",
    "gopkg.in/yaml.v3",
    "k8s.io/apimachinery/pkg/api/resource",
    "sigs.k8s.io/yaml",
];

const REQUIRED: &str = "\
	github.com/Azure/go-autorest/autorest/to v0.4.0
	github.com/BurntSushi/toml v1.3.2
	github.com/Masterminds/semver/v3 v3.2.1
	github.com/Masterminds/sprig/v3 v3.2.3
	github.com/cespare/xxhash/v2 v2.2.0
	github.com/dgrijalva/jwt-go v3.2.0+incompatible
	github.com/evanphx/json-patch v5.7.0+incompatible
	github.com/go-chi/chi/v5 v5.0.10
	github.com/gofrs/uuid v4.4.0+incompatible
	github.com/golang/snappy v0.0.4
	github.com/jackc/pgx/v5 v5.5.0
	github.com/mitchellh/go-homedir v1.1.0
	github.com/opencontainers/go-digest v1.0.0
	github.com/pkg/errors v0.9.1
	github.com/rcrowley/go-metrics v0.0.0-20201227073835-cf1acfcdf475
	github.com/spf13/cobra v1.8.0
	github.com/ulikunitz/xz v0.5.11
	go.opentelemetry.io/otel v1.19.0
	go.uber.org/zap v1.26.0
	golang.org/x/text v0.14.0
	gopkg.in/ini.v1 v1.67.0
	gopkg.in/yaml.v3 v3.0.1
	k8s.io/apimachinery v0.28.4
	sigs.k8s.io/yaml v1.4.0
";

/// Writes it into a new folder.
pub fn write(folder: &Path) {
    fs::create_dir(folder).unwrap();
    fs::write(
        folder.join("go.mod"),
        format!("module example.com/program\n\ngo 1.21\n\nrequire (\n{REQUIRED})\n"),
    )
    .unwrap();
    let imports: String = PACKAGES.iter().map(|package| format!("\t_ {package:?}\n")).collect();
    fs::write(
        folder.join("main.go"),
        format!(
            "package main\n\nimport (\n\t\"fmt\"\n\n{imports})\n\nfunc main() {{ fmt.Println(\"built\") }}\n"
        ),
    )
    .unwrap();
}

/// Makes it need one package more, of a module that is named with its version.
pub fn add(folder: &Path, package: &str, required: &str) {
    let manifest = fs::read_to_string(folder.join("go.mod")).unwrap();
    fs::write(folder.join("go.mod"), format!("{manifest}\nrequire {required}\n")).unwrap();
    let name = package.replace(['/', '.'], "_");
    fs::write(folder.join(format!("{name}.go")), format!("package main\n\nimport _ {package:?}\n")).unwrap();
}

//! Node's packages, the bundle of the page, the types of the dashboards, and the browser that draws them. All of it
//! lies below `target/dashboards`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use lab::monitoring::dashboard::Dashboard;
use lab::process::{output, run};
use lab::tools::{find, lab_tools, repository};
use serde_json::Value;

use crate::setup;

/// What the page is made of.
const SOURCES: &str = "xtask/src/dashboards/page";
/// Programs and their packages in Debian.
const NODE: [(&str, &str); 2] = [("node", "nodejs"), ("npm", "npm")];
const CHROMIUM: (&str, &str) = ("chromium", "chromium");
const WIDTH: u64 = 1600;
/// Pixels of a row with its gap, and of the head above the first.
const ROW: u64 = 38;
const HEAD: u64 = 72;

/// Where the packages and the bundle are.
#[derive(Debug)]
pub(super) struct Browser {
    directory: PathBuf,
}

impl Browser {
    /// Installs what is missing: node and its packages, and the browser if something is to be drawn.
    pub(super) fn ensure(draws: bool) -> Result<Self> {
        let wanted = NODE.into_iter().chain(draws.then_some(CHROMIUM));
        let missing: Vec<String> = wanted
            .filter(|(program, _)| find(program).is_none())
            .map(|(_, package)| package.to_owned())
            .collect();
        setup::install(&missing)?;
        let directory = lab_tools().with_file_name("dashboards");
        fs::create_dir_all(&directory)?;
        let browser = Self { directory };
        browser.install()?;
        Ok(browser)
    }

    /// The packages that the lock file names, unless they are there. None of their scripts is run.
    fn install(&self) -> Result<()> {
        let installed = self.directory.join("installed");
        let lock = fs::read_to_string(repository().join(SOURCES).join("package-lock.json"))?;
        if fs::read_to_string(&installed).is_ok_and(|found| found == lock) {
            return Ok(());
        }
        println!("dashboards: fetching Grafana's panels");
        for name in ["package.json", "package-lock.json"] {
            fs::copy(repository().join(SOURCES).join(name), self.directory.join(name))?;
        }
        self.node("npm", &["ci", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund"])?;
        fs::write(installed, lock).context("failed to note what is installed")
    }

    fn node(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let program = find(program).with_context(|| format!("`{program}` is still missing"))?;
        run(Command::new(program).args(arguments).current_dir(&self.directory))
    }

    /// Whether the dashboards have the types of Grafana's schema; says what does not.
    pub(super) fn types_hold(&self, dashboards: &[Dashboard]) -> Result<bool> {
        let mut text = fs::read_to_string(repository().join(SOURCES).join("types.ts"))?;
        for (number, dashboard) in dashboards.iter().enumerate() {
            text.push_str(&types_of(number, dashboard));
        }
        let file = self.directory.join("checked.ts");
        fs::write(&file, text)?;
        let tsc = self.directory.join("node_modules/typescript/bin/tsc");
        let node = find("node").context("`node` is still missing")?;
        let checked = output(
            Command::new(node)
                .arg(tsc)
                .args(["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext"])
                .args(["--moduleResolution", "bundler", "checked.ts"])
                .current_dir(&self.directory),
        )?;
        if !checked.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&checked.stdout));
        }
        Ok(checked.status.success())
    }

    /// Makes one script of the page and Grafana's panels.
    pub(super) fn bundle(&self) -> Result<()> {
        let sources = self.directory.join("page");
        fs::create_dir_all(&sources)?;
        for name in ["index.tsx", "panels.tsx", "frames.ts"] {
            fs::copy(repository().join(SOURCES).join(name), sources.join(name))?;
        }
        self.node(
            "node",
            &[
                "node_modules/esbuild/bin/esbuild",
                "page/index.tsx",
                "--bundle",
                "--outfile=bundle.js",
                "--log-level=error",
                "--define:process.env.NODE_ENV=\"production\"",
                "--define:global=globalThis",
                "--loader:.svg=dataurl",
                "--loader:.png=dataurl",
                "--loader:.woff=dataurl",
                "--loader:.woff2=dataurl",
                "--loader:.ttf=dataurl",
            ],
        )
        .map(drop)
    }

    /// Writes a page with what Prometheus answered.
    pub(super) fn write_page(&self, name: &str, input: &Value) -> Result<()> {
        // Nothing in a string may end the script.
        let input = input.to_string().replace("</", "<\\/");
        let page = format!(
            "<!doctype html><html><head><meta charset=\"utf-8\"><title>drawn</title>\
             <link rel=\"stylesheet\" href=\"bundle.css\"></head><body>\
             <div id=\"page\"></div><script>window.portcullis = {input};</script>\
             <script src=\"bundle.js\"></script></body></html>"
        );
        fs::write(self.page(name), page).context("failed to write a page")
    }

    fn page(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.html"))
    }

    /// Draws a page of so many rows.
    pub(super) fn draw(&self, name: &str, rows: u64, picture: &Path) -> Result<()> {
        let html = self.page(name);
        let size = format!("--window-size={WIDTH},{}", HEAD + rows * ROW);
        let page = self.chromium(&[&size, "--dump-dom"], &html)?;
        let title = page.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next());
        if title != Some("drawn") || page.contains("class=\"empty\">failed") {
            bail!("the page said: {}", title.unwrap_or("nothing"));
        }
        if let Some(folder) = picture.parent() {
            fs::create_dir_all(folder)?;
        }
        self.chromium(&[&size, &format!("--screenshot={}", picture.display())], &html).map(drop)
    }

    fn chromium(&self, arguments: &[&str], page: &Path) -> Result<String> {
        let chromium = find(CHROMIUM.0).context("`chromium` is still missing")?;
        run(Command::new(chromium)
            // Root has no sandbox, and the page is our own.
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
            .args(["--virtual-time-budget=10000", "--allow-file-access-from-files"])
            .arg(format!("--user-data-dir={}", self.directory.join("profile").display()))
            .args(arguments)
            .arg(format!("file://{}", page.display())))
    }
}

/// The dashboard and the settings of its panels as values whose types are checked.
fn types_of(number: usize, dashboard: &Dashboard) -> String {
    let mut text = format!("export const dashboard{number}: Plain<Dashboard> = {};\n", dashboard.json);
    for panel in dashboard.panels() {
        let kind = panel["type"].as_str().unwrap_or_default();
        let name = format!("{number}_{}", panel["id"]);
        text.push_str(&format!("export const options{name}: Options[{kind:?}] = {};\n", panel["options"]));
        if let custom @ Value::Object(_) = &panel["fieldConfig"]["defaults"]["custom"] {
            text.push_str(&format!("export const custom{name}: Custom[{kind:?}] = {custom};\n"));
        }
    }
    text
}

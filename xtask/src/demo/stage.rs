//! The lab that the demo plays on: with an engine or without one, the same to everything else.

use anyhow::Result;
use lab::agent::{Agent, Inventory, LISTEN};
use lab::compose::Container;
use lab::docker_lab::DockerLab;
use lab::matrix::Matrix;
use lab::netns::Netns;
use lab::plain_lab::PlainLab;
use lab::scratch::Scratch;

/// One of the two labs.
#[derive(Debug)]
pub(super) enum Stage {
    Docker(DockerLab),
    Plain(PlainLab),
}

impl Stage {
    pub(super) fn start(no_docker: bool, step: &dyn Fn(&str)) -> Result<Self> {
        Ok(if no_docker {
            Self::Plain(PlainLab::start(step)?)
        } else {
            Self::Docker(DockerLab::start(step)?)
        })
    }

    pub(super) fn host(&self) -> &Netns {
        match self {
            Self::Docker(lab) => lab.host.netns(),
            Self::Plain(lab) => lab.host(),
        }
    }

    pub(super) fn scratch(&self) -> &Scratch {
        match self {
            Self::Docker(lab) => lab.host.scratch(),
            Self::Plain(lab) => lab.scratch(),
        }
    }

    pub(super) fn inventory(&self) -> Inventory {
        match self {
            Self::Docker(lab) => Inventory::Docker(lab.host.url()),
            Self::Plain(lab) => Inventory::File(lab.inventory()),
        }
    }

    pub(super) fn matrix(&self, profile: &str) -> Result<Matrix> {
        match self {
            Self::Docker(lab) => lab.matrix(profile),
            Self::Plain(lab) => lab.matrix(profile),
        }
    }

    pub(super) fn keep(&mut self) -> Result<()> {
        match self {
            Self::Docker(lab) => lab.keep(),
            Self::Plain(lab) => lab.keep(),
        }
    }

    /// Commands to paste into a shell.
    pub(super) fn how_to_play(&self, agent: &Agent) -> String {
        let host = self.host().path();
        let directory = agent.directory();
        let enter = format!("nsenter --net={}", host.display());
        let mut text = String::from("The lab is up. To play with it:\n");
        let mut line = |what: &str, command: String| text.push_str(&format!("  # {what}\n  {command}\n"));
        match self {
            Self::Docker(lab) => {
                let docker = format!("{} --host {}", lab.host.tools().docker.display(), lab.host.url());
                line("the containers", format!("{docker} ps"));
                // Addresses, not names: a static busybox cannot load what it would resolve names with.
                if let Some(db) = lab.container("myapp-dev", "db").ok().and_then(Container::v4) {
                    let ask = |service: &str| match lab.container("myapp-dev", service) {
                        Ok(container) => {
                            format!(
                                "{docker} exec {} timeout 2 wget -q -O - http://{db}:5432/name",
                                container.name
                            )
                        }
                        Err(error) => format!("# {error}"),
                    };
                    line("a denied attempt", ask("frontend"));
                    line("an allowed one", ask("backend"));
                }
                let outside = lab.outside.netns().path();
                line(
                    "from the outside",
                    format!(
                        "nsenter --net={} busybox timeout 2 busybox wget -q -O - http://203.0.113.1:8081/name",
                        outside.display()
                    ),
                );
            }
            Self::Plain(lab) => {
                if let (Ok(frontend), Ok(address)) =
                    (lab.netns_of("myapp-dev", "frontend"), lab.address_of("myapp-dev", "db"))
                {
                    line(
                        "a denied attempt",
                        format!(
                            "nsenter --net={} busybox timeout 2 busybox wget -q -O - http://{address}:5432/name",
                            frontend.display()
                        ),
                    );
                }
            }
        }
        line(
            "denied attempts as they happen",
            format!("tail -f {}", directory.join("events.jsonl").display()),
        );
        line(
            "the counters",
            format!("{enter} busybox wget -q -O - http://{}:{}/metrics", LISTEN.0, LISTEN.1),
        );
        line("the agent's own log", format!("less {}", directory.join("agent.log").display()));
        line("read the policies again", format!("kill -HUP {}", agent.pid()));
        line("remove all of it", "cargo xtask demo --clean".to_owned());
        text
    }
}

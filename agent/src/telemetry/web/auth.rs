//! Passwords (RFC 7617), kept as bcrypt hashes.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::WebConfig;

/// Checking a password takes a processor for a moment, on purpose. Whoever guesses gets one at most.
static CHECKING: Semaphore = Semaphore::const_new(1);

/// Names and hashes; without any, everybody may read.
#[derive(Clone, Debug, Default)]
pub(super) struct Users {
    hashes: Arc<BTreeMap<String, String>>,
}

impl Users {
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Result<Self, String> {
        let broken = hashes.iter().find(|(_, hash)| bcrypt::verify("", hash).is_err());
        if let Some((name, _)) = broken {
            return Err(format!("the password of user `{name}` is not a bcrypt hash"));
        }
        Ok(Self { hashes: Arc::new(hashes) })
    }

    fn accept(&self, name: &str, password: &str) -> bool {
        match self.hashes.get(name) {
            Some(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            None => {
                // An unknown name takes as long as a known one.
                let any = self.hashes.values().next();
                let _same_time = any.map(|hash| bcrypt::verify(password, hash));
                false
            }
        }
    }
}

/// Lets requests pass that give a name and its password. Probes need none: they learn nothing from the answer.
pub async fn guard(State(config): State<Arc<WebConfig>>, request: Request, next: Next) -> Response {
    let users = config.current().users.clone();
    let probe = matches!(request.uri().path(), "/healthz" | "/readyz");
    if users.hashes.is_empty() || probe {
        return next.run(request).await;
    }
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| credentials(value.to_str().ok()?));
    if let Some((name, password)) = given {
        // Never closed.
        let _one_at_a_time = CHECKING.acquire().await;
        if spawn_blocking(move || users.accept(&name, &password)).await.unwrap_or(false) {
            return next.run(request).await;
        }
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"portcullis\", charset=\"UTF-8\"")];
    (StatusCode::UNAUTHORIZED, challenge, "unauthorized\n").into_response()
}

fn credentials(value: &str) -> Option<(String, String)> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

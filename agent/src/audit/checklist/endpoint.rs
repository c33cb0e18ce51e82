//! The lines about public endpoints.

use super::{could_not_tell, weigh};
use crate::audit::{
    http::Response,
    line::{Answer, Line},
    tls::Version,
    web::{Plain, Web},
};

const LINES: [Line; 8] = [
    Line::CertificateTrusted,
    Line::TlsVersions,
    Line::CipherSuites,
    Line::Hsts,
    Line::SecurityHeaders,
    Line::HttpsRedirect,
    Line::RateLimit,
    Line::NoDebugEndpoints,
];
/// Half a year: less does not outlive a holiday.
const HSTS: u64 = 15_768_000;

pub(super) fn all(endpoints: &[Web]) -> Vec<Answer> {
    if endpoints.is_empty() {
        let why =
            "no endpoint is named: `audit: { endpoints: […] }` in a policy, or `--endpoint https://HOST`";
        return LINES.into_iter().map(|line| could_not_tell(line, None, why)).collect();
    }
    endpoints.iter().flat_map(one).collect()
}

fn one(web: &Web) -> [Answer; 8] {
    [
        certificate(web),
        versions(web),
        suites(web),
        by_answer(web, Line::Hsts, hsts),
        by_answer(web, Line::SecurityHeaders, headers),
        redirect(web),
        rate(web),
        debug(web),
    ]
}

fn answer(web: &Web, line: Line, judged: Result<(Vec<String>, Vec<String>), &String>) -> Answer {
    let subject = Some(web.endpoint.clone());
    match judged {
        Ok((against, looked)) => weigh(line, subject, against, Vec::new(), looked),
        Err(error) => could_not_tell(line, subject, error),
    }
}

fn certificate(web: &Web) -> Answer {
    if web.trust.as_ref().is_ok_and(|trust| !trust.judged) {
        let why = "this machine has no certificates of authorities to compare with";
        return could_not_tell(Line::CertificateTrusted, Some(web.endpoint.clone()), why);
    }
    let judged = web.trust.as_ref().map(|trust| {
        let until = trust.expires.map(|day| format!("valid until {day}"));
        let against = trust.problem.iter().map(|problem| format!("a careful client turns away: {problem}"));
        let looked = until.into_iter().chain([format!("agreed on {} with {}", trust.version, trust.suite)]);
        (against.collect(), looked.collect())
    });
    answer(web, Line::CertificateTrusted, judged)
}

fn versions(web: &Web) -> Answer {
    let judged = web.offers.as_ref().map(|offers| {
        let names = |versions: &[&Version]| {
            versions.iter().map(|version| version.name()).collect::<Vec<_>>().join(", ")
        };
        let (new, old): (Vec<&Version>, Vec<&Version>) =
            offers.versions.iter().partition(|version| **version >= Version::Tls12);
        let mut against = Vec::new();
        if !old.is_empty() {
            against.push(format!("takes {}", names(&old)));
        }
        if new.is_empty() {
            against.push("takes neither TLS 1.2 nor TLS 1.3".to_owned());
        }
        (against, vec![format!("takes {} only", names(&new))])
    });
    answer(web, Line::TlsVersions, judged)
}

fn suites(web: &Web) -> Answer {
    let judged = web.offers.as_ref().map(|offers| {
        let weak = offers.weak.iter().map(|weak| {
            format!("takes {} in {}: {}", weak.suite, weak.version.name(), weak.weakness.describe())
        });
        (weak.collect(), vec!["takes none of the weak suites".to_owned()])
    });
    answer(web, Line::CipherSuites, judged)
}

type Judge = fn(&Response) -> (Vec<String>, Vec<String>);

fn by_answer(web: &Web, line: Line, judge: Judge) -> Answer {
    answer(web, line, web.answer.as_ref().map(judge))
}

fn hsts(response: &Response) -> (Vec<String>, Vec<String>) {
    let name = "strict-transport-security";
    let Some(value) = response.header(name) else {
        return (vec![format!("the answer {} to `GET /` has no `{name}`", response.status)], Vec::new());
    };
    let age = value.split(';').find_map(|part| {
        let (key, number) = part.split_once('=')?;
        let is_it = key.trim().eq_ignore_ascii_case("max-age");
        is_it.then(|| number.trim().trim_matches('"').parse::<u64>().ok()).flatten()
    });
    match age {
        Some(age) if age >= HSTS => (Vec::new(), vec![format!("`{name}: {value}`")]),
        _ => (vec![format!("`{name}: {value}`: `max-age` is less than {HSTS}")], Vec::new()),
    }
}

fn headers(response: &Response) -> (Vec<String>, Vec<String>) {
    let (mut against, mut looked) = (Vec::new(), Vec::new());
    let mut judge = |name: &str, good: &dyn Fn(&str) -> bool| match response.header(name) {
        None => against.push(format!("the answer {} to `GET /` has no `{name}`", response.status)),
        Some(value) if good(value) => looked.push(format!("`{name}: {value}`")),
        Some(value) => against.push(format!("`{name}: {value}` has no effect")),
    };
    let policy = response.header("content-security-policy").unwrap_or_default();
    judge("content-security-policy", &|value| !value.is_empty());
    judge("x-content-type-options", &|value| value.eq_ignore_ascii_case("nosniff"));
    if !policy.contains("frame-ancestors") {
        judge("x-frame-options", &|value| {
            value.eq_ignore_ascii_case("deny") || value.eq_ignore_ascii_case("sameorigin")
        });
    }
    (against, looked)
}

fn redirect(web: &Web) -> Answer {
    let line = Line::HttpsRedirect;
    match &web.plain {
        Plain::Closed => answer(web, line, Ok((Vec::new(), vec!["nobody listens on port 80".to_owned()]))),
        Plain::Unknown(error) => answer(web, line, Err(error)),
        Plain::Answer(status, location) => {
            let to = location.as_deref().unwrap_or("nowhere");
            let what = format!("`GET /` on port 80 is answered by {status}, to {to}");
            let good = matches!(status, 301 | 302 | 303 | 307 | 308)
                && to.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("https:"));
            let judged = if good { (Vec::new(), vec![what]) } else { (vec![what], Vec::new()) };
            answer(web, line, Ok(judged))
        }
    }
}

fn rate(web: &Web) -> Answer {
    let (line, subject) = (Line::RateLimit, Some(web.endpoint.clone()));
    match &web.rate {
        Err(error) => could_not_tell(line, subject, error),
        Ok(rate) => match &rate.limited_by {
            Some(by) => {
                let what = format!("limited after {} requests: {by}", rate.requests);
                weigh(line, subject, Vec::new(), Vec::new(), vec![what])
            }
            None => {
                let why = format!(
                    "{} requests in a row were all answered; a higher limit would not show",
                    rate.requests
                );
                could_not_tell(line, subject, &why)
            }
        },
    }
}

fn debug(web: &Web) -> Answer {
    let (line, subject) = (Line::NoDebugEndpoints, Some(web.endpoint.clone()));
    let (impossible, found) = match &web.paths {
        Ok(paths) => paths,
        Err(error) => return could_not_tell(line, subject, error),
    };
    let there = |status: u16| (200..300).contains(&status) || status == 401;
    if there(*impossible) {
        let why =
            format!("a path that cannot exist is answered by {impossible}, so that answers say nothing");
        return could_not_tell(line, subject, &why);
    }
    // Who limits requests says nothing about the path.
    if let Some((path, status)) = found.iter().find(|(_, status)| matches!(status, 429 | 503)) {
        let why = format!("`GET {path}` is answered by {status}: whether it is there cannot be told");
        return could_not_tell(line, subject, &why);
    }
    let against = found.iter().filter(|(_, status)| there(**status));
    let against = against.map(|(path, status)| format!("`GET {path}` is answered by {status}")).collect();
    let looked = format!("{} paths asked for, none is there", found.len());
    weigh(line, subject, against, Vec::new(), vec![looked])
}

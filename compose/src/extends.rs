//! `extends`: a service that begins with what another one has, of the same file or of another.

use std::path::{Path, PathBuf};

use crate::{
    load::{Depth, Input, Loader, Scope},
    merge,
    node::{Fault, FaultKind, Map, Node, Result, Span},
    paths,
    tags::{self, Removed},
};

/// Longer chains are nobody's intention.
const MAX_CHAIN: usize = 64;

/// The services on the way to the one at hand.
type Chain = Vec<(PathBuf, String)>;

impl Loader {
    /// Extends every service of a document that asks for it.
    pub(crate) fn extend_all(
        &mut self,
        document: &mut Node,
        path: &Path,
        scope: &Scope<'_>,
        removed: &Removed,
    ) -> Result<(), Vec<Fault>> {
        let Some(services) = document.as_map_mut().and_then(|map| map.get_mut("services")) else {
            return Ok(());
        };
        // Anything else is refused by its shape.
        let Some(services) = services.as_map_mut() else {
            return Ok(());
        };
        let names: Vec<String> = services.iter().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            let mut chain = Chain::new();
            self.extend(&name, services, path, scope, removed, &mut chain)?;
        }
        Ok(())
    }

    /// Extends one service, and before it the one that it extends.
    fn extend(
        &mut self,
        name: &str,
        services: &mut Map,
        path: &Path,
        scope: &Scope<'_>,
        removed: &Removed,
        chain: &mut Chain,
    ) -> Result<(), Vec<Fault>> {
        let Some(service) = services.get(name) else {
            return Ok(());
        };
        let Some(Reference { span, service: wanted, file }) = reference(service, name)? else {
            return Ok(());
        };
        self.follow(chain, path, name, span)?;
        let base = match file {
            Some((file, file_span)) => {
                let found = self.base_of_file(&wanted, (&file, file_span), span, scope, chain)?;
                Some(found)
            }
            None => {
                if !services.contains(&wanted) {
                    let message =
                        format!("service `{name}` extends `{wanted}`, which this file does not have");
                    return Err(vec![Fault::new(FaultKind::Reference, span, message)]);
                }
                self.extend(&wanted, services, path, scope, removed, chain)?;
                services.get(&wanted).cloned()
            }
        };
        let (Some(mut base), Some(entry)) = (base, services.entry(name).cloned()) else {
            return Ok(());
        };
        strip(&mut base, name, removed);
        let mut merged = if base.as_map().is_some() { merge::service(base, entry.node)? } else { entry.node };
        if let Some(map) = merged.as_map_mut() {
            map.remove("extends");
        }
        services.insert(name, entry.key, merged);
        Ok(())
    }

    fn follow(&self, chain: &mut Chain, path: &Path, name: &str, span: Span) -> Result<()> {
        let step = (path.to_owned(), name.to_owned());
        if chain.contains(&step) {
            chain.push(step);
            let shown = chain.iter().map(|(path, name)| format!("`{name}` in {}", self.shown(path)));
            let shown: Vec<String> = shown.collect();
            let message = format!("services extend each other in a circle: {}", shown.join(" extends "));
            return Err(Fault::new(FaultKind::Reference, span, message));
        }
        if chain.len() >= MAX_CHAIN {
            return Err(Fault::new(FaultKind::Limit, span, "the chain of `extends` is too long"));
        }
        chain.push(step);
        Ok(())
    }

    /// A service of another file, extended, its paths made absolute.
    fn base_of_file(
        &mut self,
        wanted: &str,
        (file, file_span): (&str, Span),
        span: Span,
        scope: &Scope<'_>,
        chain: &mut Chain,
    ) -> Result<Node, Vec<Fault>> {
        let path = paths::join(scope.folder, file, self.home.as_deref());
        // Asked for here, so that a missing file is reported where it is named.
        if !path.is_file() {
            let message = format!("failed to read `{}`: there is no such file", self.shown(&path));
            return Err(vec![Fault::new(FaultKind::Unreadable, file_span, message)]);
        }
        let folder = path.parent().unwrap_or(scope.folder).to_owned();
        let inner = Scope { folder: &folder, environment: scope.environment, included: scope.included };
        let mut model = self.file(&Input::File(path.clone()), &inner, None, Depth::Base)?;
        let missing = || {
            let message = format!("`{}` has no service `{wanted}`", self.shown(&path));
            vec![Fault::new(FaultKind::Reference, span, message)]
        };
        if let Some(model) = &mut model {
            paths::resolve(model, &folder, self.home.as_deref())?;
        }
        let services = model
            .as_mut()
            .and_then(Node::as_map_mut)
            .and_then(|map| map.get_mut("services"))
            .and_then(Node::as_map_mut)
            .filter(|services| services.contains(wanted))
            .ok_or_else(missing)?;
        self.extend(wanted, services, &path, &inner, &Removed::new(), chain)?;
        services
            .get(wanted)
            .cloned()
            .ok_or_else(|| vec![Fault::new(FaultKind::Reference, span, format!("no service `{wanted}`"))])
    }
}

/// What `extends` names.
struct Reference {
    span: Span,
    service: String,
    file: Option<(String, Span)>,
}

fn reference(service: &Node, name: &str) -> Result<Option<Reference>> {
    if service.as_map().is_none() && !service.is_null() {
        let message = format!("`services.{name}` is a mapping, not {}", service.kind());
        return Err(Fault::schema(service.span, message));
    }
    let Some(extends) = service.get("extends") else {
        return Ok(None);
    };
    let span = extends.span;
    let (wanted, file) = match extends.as_text() {
        Some(text) => (Some(text.to_owned()), None),
        None => {
            let text =
                |key: &str| extends.get(key).and_then(|node| Some((node.as_text()?.to_owned(), node.span)));
            (text("service").map(|(text, _)| text), text("file"))
        }
    };
    let Some(wanted) = wanted else {
        return Err(Fault::schema(span, format!("`services.{name}.extends` has no `service`")));
    };
    Ok(Some(Reference { span, service: wanted, file }))
}

/// Takes from a base what the extending service resets or overrides.
fn strip(base: &mut Node, name: &str, removed: &Removed) {
    let below: Removed = removed
        .iter()
        .filter(|path| path.len() > 2 && path[0] == "services" && path[1] == name)
        .map(|path| path[2..].to_vec())
        .collect();
    tags::apply(base, &below);
}

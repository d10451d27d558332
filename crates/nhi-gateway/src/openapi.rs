//! `/openapi.json`: what can be asked over HTTP, as OpenAPI 3.1, made of what the services say about themselves. It is
//! made anew when the mesh's offer changes, and decides nothing about who may call: nats-server does.
//!
//! Without a credential it tells the gateway's own paths and the built-in services, which are no secret; with one also
//! the services of others.

mod build;
mod own;
mod schemas;

use crate::{App, catalog::Offered, mesh, reply};
use axum::{
    body::Body,
    extract::State,
    http::{Request, StatusCode},
    response::Response,
};
use bytes::Bytes;
use nhi_model::rights;
use std::sync::{Arc, Mutex, PoisonError};

/// The documents as last made, each with the number of the offer it was made of.
#[derive(Debug, Default)]
pub(crate) struct OpenApi {
    built_in: Mutex<Option<(u64, Bytes)>>,
    whole: Mutex<Option<(u64, Bytes)>>,
}

impl OpenApi {
    fn document(&self, app: &App, is_whole: bool) -> Bytes {
        let kept = if is_whole { &self.whole } else { &self.built_in };
        let number = *app.catalog.changed().borrow();
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, document)) = kept.as_ref().filter(|(of, _)| *of == number) {
            return document.clone();
        }
        let services = app.catalog.services();
        let is_shown = |offered: &&Offered| is_whole || rights::SERVICES.contains(&offered.name.as_str());
        let document = build::document(services.iter().filter(is_shown));
        let document = Bytes::from(serde_json::to_vec(&document).expect("it is made of JSON values"));
        *kept = Some((number, document.clone()));
        document
    }
}

/// `GET /openapi.json`
pub(crate) async fn page(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    let is_known = mesh::is_somebody(&parts);
    if is_known && let Err(fault) = mesh::authenticate(&app, &parts).await {
        return reply::failure(fault);
    }
    app.catalog.looked().await;
    reply::json(StatusCode::OK, app.openapi.document(&app, is_known))
}

//! Every path and method of the API, once: the router and the OpenAPI document are both made from this table, so what is
//! served is described. A route without a description does not compile.

use std::sync::{Arc, OnceLock};

use axum::http::Method as M;
use bytes::Bytes;

use super::{
    Call, Handler, callbacks, certificates, contacts, document, handler, health, identity, login, media, messages, profile,
    providers, root, services, settings, shards, stats, trace, users,
};
use crate::{
    answer::Outcome,
    app::App,
    auth::Access::{self, Account, AccountOrKey, Admin, Open},
    config::Config,
    limiter::Class::{self, Free, Messages, Others},
    openapi::{Description, operations as ops, viewer},
};

/// A path with its methods; it is served with a slash at its end, too.
pub(super) type Route = (&'static str, Vec<Served>);

/// One method of a path: who may call it, the rate it draws from, what serves it, and what it says about itself.
pub(super) type Served = (M, Access, Class, Handler, fn() -> Description);

/// All routes.
pub(super) fn table(config: &Config) -> Vec<Route> {
    let mut table = accounts();
    table.extend(messaging());
    table.extend(files());
    table.extend(receivers());
    table.extend(operation(if config.open_metrics { Open } else { AccountOrKey }));
    if config.docs {
        table.extend(docs(config));
    }
    table
}

fn accounts() -> Vec<Route> {
    vec![
        ("/v1/users/login", vec![(M::POST, Open, Others, handler(login::login), ops::login)]),
        ("/v1/users/logout", vec![(M::POST, Account, Others, handler(login::logout), ops::logout)]),
        ("/v1/users", vec![(M::POST, Admin, Others, handler(users::create), ops::create_user)]),
        (
            "/v1/users/{username}",
            vec![
                (M::GET, Account, Others, handler(users::read), ops::read_user),
                (M::PUT, Account, Others, handler(users::update), ops::update_user),
                (M::DELETE, Admin, Others, handler(users::delete), ops::delete_user),
            ],
        ),
    ]
}

fn messaging() -> Vec<Route> {
    vec![
        ("/v1/contacts", vec![(M::POST, Account, Others, handler(contacts::check), ops::check_contacts)]),
        (
            "/v1/contacts/{wa_id}/identity",
            vec![
                (M::GET, Account, Others, handler(identity::read), ops::read_identity),
                (M::PUT, Account, Others, handler(identity::acknowledge), ops::acknowledge_identity),
            ],
        ),
        ("/v1/messages", vec![(M::POST, Account, Messages, handler(messages::send), ops::send_message)]),
        ("/v1/messages/{id}", vec![(M::PUT, Account, Others, handler(messages::mark), ops::mark_message)]),
        ("/v1/estafet/messages/{id}/trace", vec![(M::GET, Admin, Others, handler(trace::read), ops::trace_message)]),
    ]
}

fn files() -> Vec<Route> {
    vec![
        ("/v1/media", vec![(M::POST, Account, Others, handler(media::upload), ops::upload_media)]),
        (
            "/v1/media/{id}",
            vec![
                (M::GET, Account, Others, handler(media::download), ops::download_media),
                (M::DELETE, Account, Others, handler(media::delete), ops::delete_media),
            ],
        ),
        (
            "/v1/settings/application/media/providers",
            vec![
                (M::GET, Admin, Others, handler(providers::list), ops::list_providers),
                (M::POST, Admin, Others, handler(providers::put), ops::put_providers),
            ],
        ),
        (
            "/v1/settings/application/media/providers/{name}",
            vec![(M::DELETE, Admin, Others, handler(providers::delete), ops::delete_provider)],
        ),
        (
            "/v1/services/media/gc",
            vec![
                (M::PUT, Admin, Others, handler(services::collect_media), || ops::collect_media("collectMedia")),
                (M::POST, Admin, Others, handler(services::collect_media), || ops::collect_media("collectMediaByPost")),
            ],
        ),
    ]
}

/// Settings, and what becomes of callbacks.
fn receivers() -> Vec<Route> {
    vec![
        (
            "/v1/settings/application",
            vec![
                (M::GET, Admin, Others, handler(settings::read), ops::read_settings),
                (M::PATCH, Admin, Others, handler(settings::change), || ops::change_settings("changeSettings")),
                (M::PUT, Admin, Others, handler(settings::change), || ops::change_settings("changeSettingsByPut")),
                (M::DELETE, Admin, Others, handler(settings::reset), ops::reset_settings),
            ],
        ),
        (
            "/v1/settings/business/profile",
            vec![
                (M::GET, Admin, Others, handler(profile::read), ops::read_profile),
                (M::POST, Admin, Others, handler(profile::change), ops::change_profile),
            ],
        ),
        (
            "/v1/settings/profile/about",
            vec![
                (M::GET, Admin, Others, handler(profile::read_about), ops::read_about),
                (M::PATCH, Admin, Others, handler(profile::change_about), ops::change_about),
            ],
        ),
        (
            "/v1/certificates/webhooks/ca",
            vec![
                (M::GET, Admin, Others, handler(certificates::read), ops::read_webhook_ca),
                (M::POST, Admin, Others, handler(certificates::write), || ops::write_webhook_ca("writeWebhookCa")),
                (M::PUT, Admin, Others, handler(certificates::write), || ops::write_webhook_ca("writeWebhookCaByPut")),
                (M::DELETE, Admin, Others, handler(certificates::remove), ops::remove_webhook_ca),
            ],
        ),
        (
            "/v1/estafet/callbacks",
            vec![(M::GET, Admin, Others, handler(callbacks::waiting), || ops::list_callbacks("listWaitingCallbacks"))],
        ),
        (
            "/v1/estafet/callbacks/dead-letters",
            vec![
                (M::GET, Admin, Others, handler(callbacks::dead), || ops::list_callbacks("listDeadLetters")),
                (M::POST, Admin, Others, handler(callbacks::move_dead), ops::move_dead_letters),
            ],
        ),
        (
            "/v1/estafet/callbacks/delivered",
            vec![(M::GET, Admin, Others, handler(callbacks::delivered), || ops::list_callbacks("listDeliveredCallbacks"))],
        ),
        ("/v1/estafet/callbacks/replay", vec![(M::POST, Admin, Others, handler(callbacks::replay), ops::replay_callbacks)]),
    ]
}

fn operation(metrics: Access) -> Vec<Route> {
    vec![
        ("/", vec![(M::GET, Open, Free, handler(root), ops::root)]),
        ("/v1/health", vec![(M::GET, AccountOrKey, Free, handler(health::read), ops::read_health)]),
        (
            "/v1/account/shards",
            vec![
                (M::GET, Admin, Others, handler(shards::read), ops::read_shards),
                (M::POST, Admin, Others, handler(shards::change), ops::change_shards),
            ],
        ),
        ("/v1/stats/app", vec![(M::GET, AccountOrKey, Free, handler(stats::of_coreapps), ops::read_coreapp_stats)]),
        ("/v1/stats/db", vec![(M::GET, AccountOrKey, Free, handler(stats::of_database), ops::read_database_stats)]),
        ("/v1/metrics", vec![(M::GET, AccountOrKey, Free, handler(stats::of_webapp), ops::read_webapp_metrics)]),
        ("/metrics", vec![(M::GET, metrics, Free, handler(stats::ours_or_of_webapp), ops::read_metrics)]),
    ]
}

/// The document and its viewer.
fn docs(config: &Config) -> Vec<Route> {
    let config = config.clone();
    let text = OnceLock::<Bytes>::new();
    let read = move |_: Arc<App>, _: Call| {
        let make = || document(&config).to_json().expect("texts and numbers always serialise").into();
        std::future::ready(Ok(viewer::document(text.get_or_init(make).clone())))
    };
    vec![
        ("/openapi.json", vec![(M::GET, Open, Others, handler(read), ops::document)]),
        ("/docs", vec![(M::GET, Open, Others, handler(page), ops::viewer)]),
        ("/docs/{file}", vec![(M::GET, Open, Others, handler(file), ops::viewer_file)]),
    ]
}

async fn page(_: Arc<App>, call: Call) -> Outcome {
    viewer::file(call.parts.uri.path(), "")
}

async fn file(_: Arc<App>, mut call: Call) -> Outcome {
    let name = call.path_parameter().await.unwrap_or_default();
    viewer::file(call.parts.uri.path(), &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_document_and_nothing_else_is() {
        for docs in [true, false] {
            let config = Config { docs, ..Config::default() };
            let document = serde_json::to_value(document(&config)).unwrap();
            let mut routes = 0;
            for (path, methods) in table(&config) {
                for (method, ..) in methods {
                    let place = document["paths"].get(path).and_then(|item| item.get(method.as_str().to_ascii_lowercase()));
                    assert!(place.is_some(), "{method} {path}");
                    routes += 1;
                }
            }
            let described = document["paths"].as_object().unwrap().values().map(|item| item.as_object().unwrap().len());
            assert_eq!(described.sum::<usize>(), routes);
        }
    }
}

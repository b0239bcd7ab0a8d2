//! One table a rule: requests as clients send them, through [`super::super::accept`].

use estafet_model::ApiError;
use serde_json::{Value, json};

use super::{
    super::{Rules, accept, hsm},
    read,
};
use crate::{
    json::parse_object,
    template::{self, Library, library},
};

const PLAIN: &str = "order_update";
const RICH: &str = "rich";

fn templates() -> Library {
    let url = "https://example.org/t/{{1}}";
    library(&json!([
        { "name": "hello", "language": "en", "components": [{ "type": "BODY", "text": "Hello" }] },
        { "name": PLAIN, "language": "en_US", "components": [{ "type": "BODY", "text": "Hi {{1}}, it comes {{2}}. {{1}}!" }] },
        { "name": "named", "language": "en_US", "components": [
            { "type": "HEADER", "format": "TEXT", "text": "For {{1}}, with the best wishes" }, { "type": "BODY", "text": "Hi" }] },
        { "name": RICH, "language": "en_US", "components": [
            { "type": "HEADER", "format": "IMAGE" },
            { "type": "BODY", "text": "Hi {{1}}" },
            { "type": "FOOTER", "text": "Bye" },
            { "type": "BUTTONS", "buttons": [
                { "type": "QUICK_REPLY", "text": "Yes" },
                { "type": "URL", "text": "Track", "url": url },
                { "type": "URL", "text": "Home", "url": "https://example.org/" },
                { "type": "PHONE_NUMBER", "text": "Call", "phone_number": "+15550001234" } ] } ] },
        { "name": "late", "language": "en_US", "components": [
            { "type": "BODY", "text": "Hi" },
            { "type": "BUTTONS", "buttons": [
                { "type": "COPY_CODE" }, { "type": "FLOW", "text": "Go" },
                { "type": "CATALOG", "text": "All" }, { "type": "MPM", "text": "Some" } ] } ] }
    ]))
}

/// What travels, and beside it what a person sees.
fn sent(kind: &str, template: Value) -> Result<Value, ApiError> {
    let (request, templates) = (json!({ "to": "16315551234", "type": kind, kind: template }).to_string(), templates());
    let rules = Rules { sender: "15550000001".parse().unwrap(), strict: true, templates: &templates };
    let accepted = accept(request.as_bytes(), rules)?;
    let mut sent: Value = serde_json::from_slice(&accepted.body).unwrap();
    // The text does not travel: it was made to check it.
    assert!(sent.get("rendered").is_none(), "{sent}");
    let request = parse_object(request.as_bytes()).unwrap();
    let filled = if kind == "hsm" { hsm::read(&request, &templates) } else { read(&request, &templates) };
    sent["rendered"] = serde_json::to_value(template::render(&templates, &filled.unwrap().template)?).unwrap();
    Ok(sent)
}

#[test]
fn r178_names_and_parameters_travel_and_the_text_does_not() {
    let request = json!({ "to": "16315551234", "type": "template", "template": rich(|_| {}) }).to_string();
    let rules = Rules { sender: "15550000001".parse().unwrap(), strict: true, templates: &templates() };
    let accepted = accept(request.as_bytes(), rules).unwrap();
    let sent: Value = serde_json::from_slice(&accepted.body).unwrap();
    assert_eq!(sent["template"]["components"][1], body(json!([text("Ana")])));
    let members: Vec<&String> = sent["template"].as_object().unwrap().keys().collect();
    assert_eq!(members, ["components", "language", "name", "namespace"]);
    for text in ["Hi ", "Bye", "Track", "example.org/t/"] {
        assert!(!sent.to_string().contains(text), "{text} is in {sent}");
    }
}

fn of(name: &str, components: Value) -> Value {
    let code = if name == "hello" { "en" } else { "en_US" };
    json!({ "namespace": "ns", "name": name, "language": { "policy": "deterministic", "code": code }, "components": components })
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

fn body(parameters: Value) -> Value {
    json!({ "type": "body", "parameters": parameters })
}

fn image() -> Value {
    json!({ "type": "header", "parameters": [{ "type": "image", "image": { "link": "https://example.org/a.jpg" } }] })
}

fn button(sub_type: &str, index: Value, parameters: Value) -> Value {
    json!({ "type": "button", "sub_type": sub_type, "index": index, "parameters": parameters })
}

fn track(suffix: &str) -> Value {
    button("url", json!("1"), json!([text(suffix)]))
}

/// A complete request for the rich template, with a part replaced.
fn rich(change: impl FnOnce(&mut Vec<Value>)) -> Value {
    let mut components = vec![image(), body(json!([text("Ana")])), track("a1b2")];
    change(&mut components);
    of(RICH, Value::Array(components))
}

#[track_caller]
fn refused(template: Value, code: u16, said: &str) {
    let error = sent("template", template.clone()).map(|_| ()).expect_err(&template.to_string());
    assert_eq!(error.code.number(), code, "{template}: {error}");
    assert!(error.details.contains(said), "{error}, not {said}");
}

#[test]
fn what_travels_is_the_request_and_what_a_person_sees() {
    let components = json!([
        image(),
        body(json!([text("Ana")])),
        button("quick_reply", json!(0), json!([{ "type": "payload", "payload": "YES" }])),
        track("a1b2")
    ]);
    let sent = sent("template", of(RICH, components)).unwrap();
    let file = json!({ "link": "https://example.org/a.jpg" });
    assert_eq!(
        sent,
        json!({ "type": "template",
            "template": { "namespace": "ns", "name": RICH, "language": { "policy": "deterministic", "code": "en_US" },
                "components": [
                    { "type": "header", "parameters": [{ "type": "image", "image": file }] },
                    { "type": "body", "parameters": [text("Ana")] },
                    { "type": "button", "sub_type": "quick_reply", "index": "0",
                        "parameters": [{ "type": "payload", "payload": "YES" }] },
                    { "type": "button", "sub_type": "url", "index": "1", "parameters": [text("a1b2")] } ] },
            "rendered": {
                "header": { "type": "image", "image": file },
                "body": "Hi Ana", "footer": "Bye",
                "buttons": [
                    { "type": "quick_reply", "text": "Yes", "payload": "YES" },
                    { "type": "url", "text": "Track", "url": "https://example.org/t/a1b2" },
                    { "type": "url", "text": "Home", "url": "https://example.org/" },
                    { "type": "phone_number", "text": "Call", "phone_number": "+15550001234" } ] } })
    );
}

#[test]
fn a_quick_reply_without_payload_answers_with_its_label() {
    let sent = sent("template", rich(|_| {})).unwrap();
    assert_eq!(sent["rendered"]["buttons"][0]["payload"], "Yes");
}

#[test]
fn parameters_that_are_absent_null_or_empty_are_none() {
    for components in [json!(null), json!([]), json!([{ "type": "body" }]), json!([body(json!(null))]), json!([body(json!([]))])]
    {
        let sent = sent("template", of("hello", components.clone())).unwrap();
        assert_eq!(
            (&sent["rendered"], &sent["template"]["components"]),
            (&json!({ "body": "Hello" }), &json!([])),
            "{components}"
        );
    }
}

#[test]
fn money_and_moments_are_shown_as_the_sender_wrote_them_and_kept_whole() {
    let money =
        json!({ "type": "currency", "currency": { "fallback_value": "$100.99", "code": "usd", "amount_1000": "100990" } });
    let moment = json!({ "type": "date_time", "date_time": { "fallback_value": "25 Feb 1977", "day_of_week": 5, "day_of_month": 25,
        "year": 1977, "month": 2, "hour": 15, "minute": 33, "calendar": "GREGORIAN", "stranger": 1 } });
    let sent = sent("template", of(PLAIN, json!([body(json!([money, moment]))]))).unwrap();
    assert_eq!(sent["rendered"]["body"], "Hi $100.99, it comes 25 Feb 1977. $100.99!");
    let kept = &sent["template"]["components"][0]["parameters"];
    assert_eq!(kept[0]["currency"], json!({ "fallback_value": "$100.99", "code": "USD", "amount_1000": 100_990 }));
    assert_eq!(
        kept[1]["date_time"],
        json!({ "fallback_value": "25 Feb 1977", "day_of_week": 5, "day_of_month": 25, "year": 1977, "month": 2, "hour": 15,
            "minute": 33, "calendar": "GREGORIAN" })
    );
}

#[test]
fn both_policies_and_none_are_deterministic_and_fallback_is_counted() {
    for (policy, counted) in [(json!("deterministic"), false), (json!("fallback"), true), (json!(null), false)] {
        let mut template = of("hello", json!([]));
        template["language"]["policy"] = policy;
        let request = json!({ "to": "16315551234", "type": "template", "template": template }).to_string();
        let rules = Rules { sender: "15550000001".parse().unwrap(), strict: false, templates: &templates() };
        let accepted = accept(request.as_bytes(), rules).unwrap();
        let sent: Value = serde_json::from_slice(&accepted.body).unwrap();
        assert_eq!(sent["template"]["language"], json!({ "policy": "deterministic", "code": "en" }));
        assert_eq!(accepted.asked_fallback, counted);
    }
}

#[test]
fn what_is_missing_or_malformed_is_named() {
    let with = |pointer: &str, value: Value| {
        let mut template = rich(|components| components.push(button("quick_reply", json!("0"), json!([]))));
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        template.pointer_mut(parent).unwrap()[member] = value;
        template
    };
    for (pointer, value, code, said) in [
        ("/namespace", json!(null), 2014, "template.namespace"),
        ("/namespace", json!(""), 2014, "template.namespace"),
        ("/namespace", json!(5), 1009, "'template.namespace'"),
        ("/namespace", json!("other"), 1009, "does not correspond to the WABA id"),
        ("/name", json!(null), 1008, "'template.name'"),
        ("/name", json!("Rich"), 1009, "'template.name'"),
        ("/name", json!("none"), 2001, "Template none does not exist in language en and locale US"),
        ("/language", json!(null), 1008, "'template.language'"),
        ("/language", json!("en"), 1009, "'template.language'"),
        ("/language", json!({ "code": "en", "policy": "guess" }), 1009, "'template.language.policy'"),
        ("/language", json!({ "policy": "deterministic" }), 1008, "'template.language.code'"),
        ("/language", json!({ "code": "english" }), 1009, "'template.language.code'"),
        ("/language", json!({ "code": "fi" }), 2003, "No message templates exist in language fi"),
        ("/components", json!({}), 1009, "'template.components'"),
        ("/components", json!([5]), 1009, "'template.components[0]'"),
        ("/components", json!([{}]), 1008, "'template.components[0].type'"),
        ("/components", json!([{ "type": "stamp" }]), 1009, "'template.components[0].type'"),
        ("/components", json!([body(json!([])), body(json!([]))]), 1009, "'template.components[1].type'"),
        ("/components", json!([body(json!("Ana"))]), 1009, "'template.components[0].parameters'"),
        ("/components", json!([body(json!([{ "text": "Ana" }]))]), 1008, "'template.components[0].parameters[0].type'"),
        ("/components", json!([body(json!([text("")]))]), 1008, "'template.components[0].parameters[0].text'"),
        ("/components", json!([body(json!([{ "type": "image" }]))]), 1008, "'template.components[0].parameters[0].image'"),
        ("/components", json!([{ "type": "button", "index": "0" }]), 1008, "'template.components[0].sub_type'"),
        ("/components", json!([{ "type": "button", "sub_type": "url" }]), 1008, "'template.components[0].index'"),
        ("/components", json!([button("url", json!("10"), json!([]))]), 1009, "'template.components[0].index'"),
        ("/components", json!([button("url", json!("-1"), json!([]))]), 1009, "'template.components[0].index'"),
        ("/components", json!([button("url", json!("x"), json!([]))]), 1009, "'template.components[0].index'"),
        ("/components", json!([track("a"), track("b")]), 1009, "'template.components[1].index'"),
    ] {
        refused(with(pointer, value), code, said);
    }
    let missing = sent("template", Value::Null).unwrap_err();
    assert_eq!(missing.details, "Parameter 'template' is mandatory for type 'template'");
}

#[test]
fn the_parts_of_money_and_moments_are_checked() {
    let money = |currency: Value| json!({ "type": "currency", "currency": currency });
    let moment = |date_time: Value| json!({ "type": "date_time", "date_time": date_time });
    for (parameter, code, member) in [
        (money(json!({ "code": "USD", "amount_1000": 1 })), 1008, "currency.fallback_value"),
        (money(json!({ "fallback_value": "$1", "amount_1000": 1 })), 1008, "currency.code"),
        (money(json!({ "fallback_value": "$1", "code": "USD" })), 1008, "currency.amount_1000"),
        (money(json!({ "fallback_value": "$1", "code": "US$", "amount_1000": 1 })), 1009, "currency.code"),
        (money(json!({ "fallback_value": "$1", "code": "USD", "amount_1000": 1.5 })), 1009, "currency.amount_1000"),
        (moment(json!({ "year": 1977 })), 1008, "date_time.fallback_value"),
        (moment(json!({ "fallback_value": "x", "day_of_week": 8 })), 1009, "date_time.day_of_week"),
        (moment(json!({ "fallback_value": "x", "day_of_week": "someday" })), 1009, "date_time.day_of_week"),
        (moment(json!({ "fallback_value": "x", "month": 13 })), 1009, "date_time.month"),
        (moment(json!({ "fallback_value": "x", "minute": "y" })), 1009, "date_time.minute"),
        (moment(json!({ "fallback_value": "x", "calendar": "MAYAN" })), 1009, "date_time.calendar"),
    ] {
        refused(of(PLAIN, json!([body(json!([parameter]))])), code, member);
    }
    for day in [json!(7), json!("1"), json!("FRIDAY")] {
        let friday = moment(json!({ "fallback_value": "x", "day_of_week": day }));
        assert!(sent("template", of(PLAIN, json!([body(json!([friday, text("a")]))]))).is_ok(), "{day}");
    }
}

#[test]
fn a_file_needs_an_id_or_a_link() {
    let file = |file: Value| {
        rich(|components| components[0] = json!({ "type": "header", "parameters": [{ "type": "image", "image": file }] }))
    };
    for (media, code, member) in [
        (json!({}), 1008, "image.id"),
        (json!({ "link": "" }), 1008, "image.id"),
        (json!({ "link": "ftp://example.org/" }), 1009, "image.link"),
        (json!({ "link": "https://example.org/a b" }), 1009, "image.link"),
        (json!({ "link": "https://example.org/", "provider": {} }), 1008, "image.provider.name"),
    ] {
        refused(file(media), code, member);
    }
    for (media, kept) in [
        (json!({ "id": "x", "link": "https://example.org/", "caption": "y" }), json!({ "id": "x" })),
        (
            json!({ "link": "https://example.org/", "provider": { "name": "p" } }),
            json!({ "link": "https://example.org/", "provider": { "name": "p" } }),
        ),
    ] {
        assert_eq!(sent("template", file(media)).unwrap()["rendered"]["header"]["image"], kept);
    }
}

#[test]
fn components_the_template_needs_are_asked_for() {
    refused(rich(|components| drop(components.remove(0))), 2009, "header: the component with the IMAGE is missing");
    refused(rich(|components| drop(components.remove(2))), 2009, "button 1: the component is missing");
    refused(of("late", json!([])), 2009, "button 0: the component is missing");
}

#[test]
fn parameters_are_counted_in_each_component() {
    let said = |component: &str, given: usize, expected: usize| {
        format!("{component}: number of localizable_params ({given}) does not match the expected number of params ({expected})")
    };
    for (template, component, given, expected) in [
        (of(PLAIN, json!([body(json!([text("Ana")]))])), "body", 1, 2),
        (of(PLAIN, json!([])), "body", 0, 2),
        (of("hello", json!([body(json!([text("Ana")]))])), "body", 1, 0),
        (of("hello", json!([image()])), "header", 1, 0),
        (of("named", json!([])), "header", 0, 1),
        (of("hello", json!([{ "type": "footer", "parameters": [text("x")] }])), "footer", 1, 0),
        (rich(|components| components[0] = json!({ "type": "header" })), "header", 0, 1),
        (rich(|components| components[2] = button("url", json!("1"), json!([]))), "button 1", 0, 1),
        (rich(|components| components.push(button("url", json!("2"), json!([text("x")])))), "button 2", 1, 0),
        (
            rich(|components| {
                let payload = json!({ "type": "payload", "payload": "a" });
                components.push(button("quick_reply", json!("0"), json!([payload, payload])));
            }),
            "button 0",
            2,
            1,
        ),
    ] {
        refused(template, 2000, &said(component, given, expected));
    }
}

#[test]
fn parameters_have_the_type_the_template_asks_for() {
    let header = |parameter: Value| rich(|components| components[0] = json!({ "type": "header", "parameters": [parameter] }));
    let video = json!({ "type": "video", "video": { "id": "x" } });
    for (template, code, said) in [
        (header(text("x")), 2012, "header: Format mismatch, expected IMAGE, received TEXT"),
        (header(video.clone()), 2012, "header: Format mismatch, expected IMAGE, received VIDEO"),
        (header(json!({ "type": "gif", "gif": { "id": "x" } })), 2008, "header: GIF is not supported"),
        (of("named", json!([{ "type": "header", "parameters": [video] }])), 2012, "expected TEXT, received VIDEO"),
        (rich(|components| components[1] = body(json!([{ "type": "payload", "payload": "x" }]))), 2012, "body: Format mismatch"),
        (rich(|components| components[1] = body(json!([{ "type": "stamp" }]))), 2012, "expected TEXT, received STAMP"),
        (
            rich(|components| components[2] = button("quick_reply", json!("1"), json!([text("x")]))),
            2012,
            "button 1: Format mismatch, expected URL, received QUICK_REPLY",
        ),
        (
            rich(|components| components[2] = button("url", json!("1"), json!([{ "type": "payload", "payload": "x" }]))),
            2012,
            "button 1: Format mismatch, expected TEXT, received PAYLOAD",
        ),
        (
            rich(|components| components.push(button("quick_reply", json!("0"), json!([text("x")])))),
            2012,
            "button 0: Format mismatch, expected PAYLOAD, received TEXT",
        ),
    ] {
        refused(template, code, said);
    }
}

#[test]
fn lengths_are_those_of_parameters_and_of_whole_texts_in_characters() {
    let one = |length: usize| of(PLAIN, json!([body(json!([text("x"), text(&"é".repeat(length))]))]));
    refused(one(1025), 2004, "body");
    refused(one(1024), 2005, "body");
    // The text around the parameters has 17 characters, and the other parameter comes up twice.
    assert!(sent("template", one(1005)).is_ok());
    refused(one(1006), 2005, "body");
    let header = |length: usize| of("named", json!([{ "type": "header", "parameters": [text(&"a".repeat(length))] }]));
    refused(header(61), 2004, "header");
    refused(header(60), 2005, "header");
    assert!(sent("template", header(33)).is_ok());
    let payload = |length: usize| {
        let payload = json!([{ "type": "payload", "payload": "a".repeat(length) }]);
        rich(|components| components.push(button("quick_reply", json!("0"), payload)))
    };
    refused(payload(257), 2004, "button 0");
    assert!(sent("template", payload(256)).is_ok());
}

#[test]
fn bodies_take_no_line_breaks_tabs_and_runs_of_spaces() {
    for (parameter, code) in
        [("a\nb", 2006), ("a\rb", 2006), ("a\tb", 2006), ("a     b", 2006), ("a\u{7}b", 2007), ("a\u{85}b", 2007)]
    {
        refused(of(PLAIN, json!([body(json!([text("x"), text(parameter)]))])), code, "body");
    }
    refused(of("named", json!([{ "type": "header", "parameters": [text("a\u{7}")] }])), 2007, "header");
    for fine in ["a    b", " a ", "*a* _b_ ~c~", "{{1}}", "👍🏽"] {
        assert!(sent("template", of(PLAIN, json!([body(json!([text(fine), text("y")]))]))).is_ok(), "{fine}");
    }
}

#[test]
fn an_address_stays_one_with_its_parameter() {
    for suffix in ["a b", "a\n", "\u{2003}", &"a".repeat(1990)] {
        refused(rich(|components| components[2] = track(suffix)), 2010, "button");
    }
    refused(rich(|components| components[2] = track(&"a".repeat(2001))), 2004, "button 1");
    for suffix in ["a1b2", "?x=1&y=%20", "日本"] {
        assert!(sent("template", rich(|components| components[2] = track(suffix))).is_ok(), "{suffix}");
    }
}

#[test]
fn buttons_the_template_has_not_are_refused() {
    refused(of("hello", json!([button("quick_reply", json!("0"), json!([]))])), 2013, "button 0");
    refused(rich(|components| components.push(button("quick_reply", json!("7"), json!([])))), 2013, "button 7");
    refused(rich(|components| components.push(button("lever", json!("0"), json!([])))), 2013, "no lever button");
}

#[test]
fn checks_come_in_their_order_over_the_whole_message() {
    // The wrong count comes before the wrong format, that before the length, that before white space.
    let format = json!({ "type": "header", "parameters": [text("x")] });
    refused(of(RICH, json!([format, body(json!([])), track("a b")])), 2000, "body");
    refused(of(RICH, json!([format, body(json!([text("a\nb")])), track("a b")])), 2012, "header");
    refused(of(RICH, json!([image(), body(json!([text(&"a\n".repeat(600))])), track("a b")])), 2004, "body");
    refused(of(RICH, json!([image(), body(json!([text("a\nb")])), track("a b")])), 2006, "body");
}

#[test]
fn buttons_of_late_templates_travel() {
    let action = json!([{ "type": "action", "action": { "flow_token": "t", "flow_action_data": { "a": 1 } } }]);
    let coupon = |code: &str| button("copy_code", json!(0), json!([{ "type": "coupon_code", "coupon_code": code }]));
    let late = |code: &str| {
        of("late", json!([coupon(code), button("flow", json!(1), action.clone()), button("mpm", json!(3), action.clone())]))
    };
    let buttons = sent("template", late("SAVE20")).unwrap()["rendered"]["buttons"].clone();
    assert_eq!(buttons[0], json!({ "type": "copy_code", "text": "Copy code", "coupon_code": "SAVE20" }));
    assert_eq!(buttons[1]["action"]["flow_action_data"], json!({ "a": 1 }));
    refused(late("1234567890123456"), 2004, "button 0");
}

fn hsm(name: &str, parameters: Value) -> Value {
    json!({ "namespace": "ns", "element_name": name, "language": { "policy": "fallback", "code": "en_US" },
        "localizable_params": parameters })
}

#[test]
fn an_hsm_travels_as_the_template_it_names() {
    let parameters = json!([
        { "default": "$10", "currency": { "currency_code": "USD", "amount_1000": 10_000 } },
        { "default": "Friday", "date_time": { "component": { "day_of_week": 5, "calendar": "GREGORIAN" } } }]);
    let sent = sent("hsm", hsm(PLAIN, parameters)).unwrap();
    assert_eq!((&sent["type"], &sent["rendered"]["body"]), (&json!("template"), &json!("Hi $10, it comes Friday. $10!")));
    let kept = &sent["template"]["components"][0]["parameters"];
    assert_eq!(kept[0]["currency"], json!({ "fallback_value": "$10", "code": "USD", "amount_1000": 10_000 }));
    assert_eq!(kept[1]["date_time"], json!({ "fallback_value": "Friday", "day_of_week": 5, "calendar": "GREGORIAN" }));
    let epoch = json!([{ "default": "a" }, { "default": "b", "date_time": { "unix_epoch": { "timestamp": 1 } } }]);
    assert!(self::sent("hsm", hsm(PLAIN, epoch)).is_ok());
}

#[test]
fn refusals_of_an_hsm_use_its_own_names() {
    for (template, code, said) in [
        (json!({}), 2014, "hsm.namespace"),
        (json!({ "namespace": "ns" }), 1008, "'hsm.element_name'"),
        (hsm(PLAIN, json!([{ "default": "a" }])), 2000, "body: number of localizable_params (1)"),
        (hsm(PLAIN, json!([{}])), 1008, "'hsm.localizable_params[0].default'"),
        (hsm(PLAIN, json!([{ "default": "a", "date_time": {} }])), 1008, "'hsm.localizable_params[0].date_time.component'"),
        (hsm(RICH, json!([])), 2012, "rich is a rich template and needs the template message API to be used"),
        (hsm("named", json!([])), 2012, "rich template"),
        (hsm("none", json!([])), 2001, "Template none does not exist"),
    ] {
        let error = sent("hsm", template.clone()).map(|_| ()).expect_err(&template.to_string());
        assert_eq!(error.code.number(), code, "{error}");
        assert!(error.details.contains(said), "{error}, not {said}");
    }
}

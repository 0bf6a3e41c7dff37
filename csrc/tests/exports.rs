//! The rules for what the library exports: guarded, plain types, and documented down to the last parameter.
//!
//! Each rule is a function that lists what is wrong with an item; the sources have nothing wrong, and for each rule
//! there is an item that has.

mod abi_sources;

use std::fs;

use abi_sources::{abi_files, parse, root, rust_files};
use syn::ext::IdentExt;
use syn::{
    Attribute, Expr, Field, Fields, FnArg, Item, ItemFn, Lit, Pat, PathArguments, ReturnType, Stmt, Type,
};

// --- reading

fn is_export(function: &ItemFn) -> bool {
    let attributes = function.attrs.iter();
    attributes
        .map(|a| match &a.meta {
            syn::Meta::List(list) => list.tokens.to_string(), // #[unsafe(no_mangle)]
            meta => meta.path().get_ident().map(ToString::to_string).unwrap_or_default(),
        })
        .any(|text| text == "no_mangle" || text.starts_with("export_name"))
}

/// The lines of a doc comment.
fn comment(attributes: &[Attribute]) -> Vec<String> {
    let text = |attribute: &Attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
        let Expr::Lit(literal) = &pair.value else { return None };
        let Lit::Str(text) = &literal.lit else { return None };
        pair.path.is_ident("doc").then(|| text.value().trim().to_string())
    };
    attributes.iter().filter_map(text).collect()
}

/// A comment's sections: the text before the first command, then each command with its text.
fn sections(attributes: &[Attribute]) -> Vec<(String, String)> {
    let mut found = vec![(String::new(), String::new())];
    for line in comment(attributes) {
        match line.strip_prefix('\\') {
            Some(rest) => {
                let (command, text) = rest.split_once(' ').unwrap_or((rest, ""));
                found.push((command.to_string(), text.to_string()));
            }
            None => {
                let text = &mut found.last_mut().unwrap().1;
                text.push(' ');
                text.push_str(&line);
            }
        }
    }
    found.iter().map(|(command, text)| (command.clone(), text.trim().to_string())).collect()
}

fn parameters(function: &ItemFn) -> Vec<(String, &Type)> {
    let mut found = vec![];
    for argument in &function.sig.inputs {
        let FnArg::Typed(typed) = argument else { continue };
        let Pat::Ident(pattern) = &*typed.pat else { continue };
        found.push((pattern.ident.unraw().to_string(), &*typed.ty));
    }
    assert_eq!(found.len(), function.sig.inputs.len(), "{}: a parameter without a name", function.sig.ident);
    found
}

// --- rules

/// The body is one call of the guard, and what is evaluated outside of it cannot panic.
fn unguarded(function: &ItemFn) -> Vec<String> {
    let wrong = |text: &str| vec![format!("{}: {text}", function.sig.ident)];
    let [Stmt::Expr(Expr::Call(call), _)] = function.block.stmts.as_slice() else {
        return wrong("the body is not one guard(..)");
    };
    let Expr::Path(callee) = &*call.func else { return wrong("the body is not one guard(..)") };
    if !callee.path.is_ident("guard") && !callee.path.is_ident("guard_value") {
        return wrong("the body is not one guard(..)");
    }
    let mut arguments = call.args.iter().rev();
    if !matches!(arguments.next(), Some(Expr::Closure(_))) {
        return wrong("what is guarded is not a closure");
    }
    let constant = |value: &Expr| match value {
        Expr::Lit(_) => true,
        Expr::Unary(unary) => matches!(&*unary.expr, Expr::Lit(_)),
        Expr::Tuple(tuple) => tuple.elems.is_empty(),
        Expr::MethodCall(call) => matches!(&*call.receiver, Expr::Lit(_)) && call.args.is_empty(),
        Expr::Call(call) => matches!(&*call.func, Expr::Path(path) if is_null_mut(&path.path)),
        _ => false,
    };
    if arguments.all(constant) {
        vec![]
    } else {
        wrong("the fallback is computed outside of the guard")
    }
}

fn is_null_mut(path: &syn::Path) -> bool {
    path.segments.iter().map(|segment| segment.ident.to_string()).eq(["std", "ptr", "null_mut"])
}

/// Only numbers, pointers and functions cross by value: no struct, no enum, no bool, nothing of Rust.
fn not_plain(function: &ItemFn) -> Vec<String> {
    let mut wrong = vec![];
    if function.sig.abi.as_ref().and_then(|abi| abi.name.as_ref()).map(syn::LitStr::value).as_deref()
        != Some("C")
    {
        wrong.push(format!("{}: not extern \"C\"", function.sig.ident));
    }
    let returned = match &function.sig.output {
        ReturnType::Default => None,
        ReturnType::Type(_, value) => Some((String::from("the result"), &**value)),
    };
    for (name, value) in parameters(function).into_iter().chain(returned) {
        if !is_plain(value) {
            wrong.push(format!("{}: {name} is of a type that cannot cross by value", function.sig.ident));
        }
    }
    wrong
}

fn is_plain(value: &Type) -> bool {
    match value {
        Type::Ptr(_) => true,
        Type::Path(path) => {
            let last = path.path.segments.last().unwrap();
            let name = last.ident.to_string();
            let numbers = ["u8", "i32", "u32", "i64", "u64", "usize", "rtd_result"];
            matches!(last.arguments, PathArguments::None)
                && (numbers.contains(&name.as_str()) || name.starts_with("rtd_") && name.ends_with("_fn"))
        }
        _ => false,
    }
}

/// One paragraph, then each parameter in its order, the result if there is one, and the threads.
fn undocumented(function: &ItemFn) -> Vec<String> {
    let name = &function.sig.ident;
    let mut wrong = vec![];
    let sections = sections(&function.attrs);
    if sections[0].1.is_empty() {
        wrong.push(format!("{name}: nothing says what it does"));
    }
    let mut commands = vec![];
    for (command, text) in &sections[1..] {
        let (what, explanation) = match command.as_str() {
            "param" => text.split_once(' ').map_or((text.as_str(), ""), |(of, text)| (of, text)),
            _ => ("", text.as_str()),
        };
        if explanation.trim().is_empty() {
            wrong.push(format!("{name}: \\{command} {what} says nothing"));
        }
        commands.push(format!("{command} {what}").trim().to_string());
    }
    let returns = !matches!(function.sig.output, ReturnType::Default);
    let wanted: Vec<_> = parameters(function)
        .iter()
        .map(|(parameter, _)| format!("param {parameter}"))
        .chain(returns.then(|| String::from("return")))
        .chain([String::from("threads")])
        .collect();
    if commands != wanted {
        wrong.push(format!("{name}: the comment has {commands:?}, the function wants {wanted:?}"));
    }
    wrong
}

/// A result code is listed for what can go wrong with any call of its kind.
fn codes_missing(function: &ItemFn) -> Vec<String> {
    let ReturnType::Type(_, value) = &function.sig.output else { return vec![] };
    let Type::Path(path) = &**value else { return vec![] };
    let sections = sections(&function.attrs);
    let Some((_, text)) = sections.iter().find(|(command, _)| command == "return") else { return vec![] };
    // Those that say "as rtd_other()" are documented there.
    if !path.path.is_ident("rtd_result") || text.contains("as rtd_") {
        return vec![];
    }
    let mut wrong = vec![];
    let pointers = parameters(function).iter().any(|(_, value)| matches!(value, Type::Ptr(_)));
    for (needed, why) in [("RTD_OK", "success"), ("RTD_E_NULL", "a NULL pointer")] {
        if (needed == "RTD_OK" || pointers) && !text.contains(needed) {
            wrong.push(format!("{}: \\return does not list {needed} for {why}", function.sig.ident));
        }
    }
    wrong
}

/// Types, members and numbers that hosts see are explained, and a number is written out: it would change when another
/// one is put before it.
fn unexplained(item: &Item) -> Vec<String> {
    let check = |name: String, attributes: &[Attribute]| {
        comment(attributes).join("").is_empty().then(|| format!("{name}: no comment"))
    };
    let (name, attributes) = match item {
        Item::Struct(item) => (&item.ident, &item.attrs),
        Item::Enum(item) => (&item.ident, &item.attrs),
        Item::Type(item) => (&item.ident, &item.attrs),
        _ => return vec![],
    };
    if !name.to_string().starts_with("rtd_") {
        return vec![];
    }
    let mut wrong: Vec<_> = check(name.to_string(), attributes).into_iter().collect();
    match item {
        Item::Struct(item) if item.attrs.iter().any(|a| a.path().is_ident("repr")) => {
            let Fields::Named(fields) = &item.fields else { return wrong };
            let name_of = |field: &Field| format!("{name}.{}", field.ident.as_ref().unwrap());
            wrong.extend(fields.named.iter().filter_map(|field| check(name_of(field), &field.attrs)));
        }
        Item::Enum(item) => {
            wrong.extend(item.variants.iter().filter_map(|v| check(v.ident.to_string(), &v.attrs)));
            let implied = item.variants.iter().filter(|v| v.discriminant.is_none());
            wrong.extend(implied.map(|v| format!("{}: its number is not written out", v.ident)));
        }
        _ => {}
    }
    wrong
}

// --- the sources keep them

fn defects(function: &ItemFn) -> Vec<String> {
    [unguarded, not_plain, undocumented, codes_missing].iter().flat_map(|rule| rule(function)).collect()
}

#[test]
fn every_export_keeps_the_rules() {
    let (mut exports, mut wrong) = (0, vec![]);
    for path in abi_files() {
        for item in parse(&path).items {
            match &item {
                Item::Fn(function) if is_export(function) => {
                    exports += 1;
                    wrong.extend(defects(function));
                }
                other => wrong.extend(unexplained(other)),
            }
        }
    }
    assert!(exports > 0, "no export found: has the ABI moved?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Exports live in the files that the header is made from, and no macro hides one.
#[test]
fn exports_are_plain_and_in_one_place() {
    let known = abi_files();
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let is_abi = known.contains(&path);
        assert!(is_abi || !text.contains("no_mangle"), "{}: an export outside src/abi", path.display());
        assert!(!text.contains("export_name"), "{}: exports carry their own name", path.display());
        let is_guard = path.ends_with("abi/guard.rs");
        for item in parse(&path).items {
            match item {
                Item::Macro(item) if is_abi => {
                    let hidden = item.mac.tokens.to_string().contains("no_mangle");
                    assert!(!hidden, "{}: a macro defines an export", path.display());
                }
                Item::Fn(function) => {
                    let name = function.sig.ident.to_string();
                    let other = is_abi && !is_guard && (name == "guard" || name == "guard_value");
                    assert!(!other, "{}: another {name}", path.display());
                }
                _ => {}
            }
        }
    }
}

/// Results that a comment names exist, so that a renamed one is noticed.
#[test]
fn results_that_comments_name_exist() {
    let mut known = vec![];
    for item in abi_files().iter().flat_map(|path| parse(path).items) {
        if let Item::Enum(item) = item {
            known.extend(item.variants.iter().map(|variant| variant.ident.to_string()));
        }
    }
    for path in abi_files() {
        for line in
            fs::read_to_string(&path).unwrap().lines().filter(|line| line.trim_start().starts_with("///"))
        {
            // In quotes stands text, not a name.
            let names = line.split('"').step_by(2).collect::<Vec<_>>().join(" ");
            for word in names.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                let is_number = word.starts_with("RTD_") && !word.ends_with('_');
                assert!(
                    !is_number || known.iter().any(|name| name == word),
                    "{}: {word}: {line}",
                    path.display()
                );
            }
        }
    }
}

// --- and they can be broken

const GOOD: &str = r#"
    /// Does something.
    ///
    /// \param thing the thing
    /// \param out receives it
    /// \return RTD_OK; RTD_E_NULL
    /// \threads any
    #[no_mangle]
    pub unsafe extern "C" fn rtd_thing_do(thing: *const rtd_thing, out: *mut u64) -> rtd_result {
        guard(|| unsafe { with(thing, |thing| fill(out, thing)) })
    }
"#;

fn defects_of(text: &str) -> String {
    let function: ItemFn = syn::parse_str(text).unwrap();
    assert!(is_export(&function), "{text}");
    defects(&function).join("\n")
}

fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    defects_of(&GOOD.replace(from, to))
}

#[test]
fn a_good_export_has_no_defect() {
    assert_eq!(defects_of(GOOD), "");
}

#[test]
fn what_is_not_guarded_is_noticed() {
    let body = "guard(|| unsafe { with(thing, |thing| fill(out, thing)) })";
    assert!(with(body, "unsafe { *out = 1 }; RTD_OK").contains("not one guard"));
    assert!(with(body, &format!("let x = thing.len(); {body}")).contains("not one guard"));
    assert!(with(body, "guarded(|| 0)").contains("not one guard"));
    assert!(with(body, "guard(run)").contains("not a closure"));
    assert!(with(body, "guard_value(thing.len(), || 0)").contains("outside of the guard"));
    assert!(with(body, "guard_value(thing::null_mut(), || 0)").contains("outside of the guard"));
    assert_eq!(with(body, "guard_value(-1, || 0)"), "");
    assert_eq!(with(body, "guard_value(std::ptr::null_mut(), || 0)"), "");
}

#[test]
fn what_is_not_plain_is_noticed() {
    for value in ["rtd_event", "bool", "String", "Option<u8>", "&u8", "rtd_code"] {
        assert!(with("out: *mut u64", &format!("out: {value}")).contains("cannot cross"), "{value}");
        assert!(with("-> rtd_result", &format!("-> {value}")).contains("cannot cross"), "{value}");
    }
    assert!(with(r#"extern "C" "#, "").contains("not extern"));
}

#[test]
fn what_is_not_documented_is_noticed() {
    assert!(with("/// Does something.", "///").contains("nothing says what it does"));
    assert!(with("    /// \\param out receives it\n", "").contains("the function wants"));
    assert!(with("\\param out receives it", "\\param other receives it").contains("the function wants"));
    assert!(with("\\param out receives it", "\\param out").contains("says nothing"));
    assert!(with("    /// \\threads any\n", "").contains("the function wants"));
    assert!(with("    /// \\return RTD_OK; RTD_E_NULL\n", "").contains("the function wants"));
    assert!(with("out: *mut u64", "other: *mut u64").contains("the function wants"));
    assert!(with("RTD_OK; RTD_E_NULL", "RTD_OK").contains("RTD_E_NULL"));
    assert!(with("RTD_OK; RTD_E_NULL", "RTD_E_NULL").contains("RTD_OK"));
}

#[test]
fn types_without_comments_are_noticed() {
    let wrong = |text: &str| unexplained(&syn::parse_str(text).unwrap()).join("\n");
    assert_eq!(wrong("/// A.\n#[repr(C)] pub struct rtd_a { /// B.\n pub b: u8 }"), "");
    assert_eq!(wrong("/// A.\n#[repr(C)] pub struct rtd_a { pub b: u8 }"), "rtd_a.b: no comment");
    assert_eq!(wrong("/// A.\npub struct rtd_a { hidden: u8 }"), "");
    assert_eq!(wrong("pub struct rtd_a { hidden: u8 }"), "rtd_a: no comment");
    assert_eq!(wrong("/// A.\npub enum rtd_a { /// B.\n RTD_B = 1 }"), "");
    assert!(wrong("/// A.\npub enum rtd_a { /// B.\n RTD_B }").contains("not written out"));
    assert_eq!(wrong("/// A.\npub enum rtd_a { RTD_B = 1 }"), "RTD_B: no comment");
    assert_eq!(wrong("pub type rtd_a_fn = u8;"), "rtd_a_fn: no comment");
}

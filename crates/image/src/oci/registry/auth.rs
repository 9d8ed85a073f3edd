//! What a registry wants to see: challenges as RFC 9110 has them, and tokens as Docker's registries hand them out.
//!
//! With a name and password a token is asked for by GET; with an identity token, which credential helpers of some
//! registries give in the place of a password, by POST as OAuth 2 has it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use url::Url;
use url::form_urlencoded::Serializer;

/// Whom a registry knows.
#[derive(Clone)]
pub struct Login {
    /// The account; [`Login::IDENTITY`] where the password is an identity token.
    pub user: String,
    /// Its password, or a token in the place of one.
    pub password: String,
}

impl Login {
    /// What credential helpers give as the user of an identity token.
    pub const IDENTITY: &'static str = "<token>";

    /// The identity token, where it is one.
    pub(super) fn identity(&self) -> Option<&str> {
        (self.user == Self::IDENTITY).then_some(&self.password)
    }

    /// As a header.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// One way to show who one is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In small letters: `bearer`, `basic`.
    pub scheme: String,
    /// By names in small letters.
    pub parameters: BTreeMap<String, String>,
}

/// How a token is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TokenCall {
    pub url: Url,
    /// A form that is posted; without one it is a GET.
    pub form: Option<String>,
    /// With a name and password.
    pub basic: Option<String>,
}

impl Challenge {
    /// How a token for some scopes is asked for; nothing where no place is named.
    pub fn token_call(&self, scopes: &[String], login: Option<&Login>) -> Option<TokenCall> {
        let mut url = Url::parse(self.parameters.get("realm")?).ok()?;
        let service = self.parameters.get("service");
        if let Some(token) = login.and_then(Login::identity) {
            let mut form = Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token").append_pair("client_id", "pando");
            if let Some(service) = service {
                form.append_pair("service", service);
            }
            form.append_pair("scope", &scopes.join(" ")).append_pair("refresh_token", token);
            return Some(TokenCall { url, form: Some(form.finish()), basic: None });
        }
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        for scope in scopes {
            url.query_pairs_mut().append_pair("scope", scope);
        }
        Some(TokenCall { url, form: None, basic: login.map(Login::basic) })
    }
}

/// The challenges of one header: `Bearer realm="https://auth.example/token",service="reg", Basic realm=x`.
pub(super) fn challenges(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    for part in parts(header) {
        let (word, rest) = part.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((part, ""));
        // A word of its own before a parameter, or with none at all, is a scheme.
        let (parameter, scheme) = if word.contains('=') { (part, None) } else { (rest.trim(), Some(word)) };
        if let Some(scheme) = scheme {
            found.push(Challenge { scheme: scheme.to_ascii_lowercase(), parameters: BTreeMap::new() });
        }
        if let (Some((name, value)), Some(challenge)) = (parameter.split_once('='), found.last_mut()) {
            challenge.parameters.insert(name.trim().to_ascii_lowercase(), unquoted(value.trim()));
        }
    }
    found
}

/// What stands between commas that are not inside of quotes.
fn parts(header: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let split = header.split(move |c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        c == ',' && !quoted
    });
    split.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return value.to_owned() };
    let mut escaped = false;
    inner
        .chars()
        .filter(|c| {
            escaped = *c == '\\' && !escaped;
            !escaped
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str) -> Vec<(String, Vec<(String, String)>)> {
        challenges(header).into_iter().map(|one| (one.scheme, one.parameters.into_iter().collect())).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn what_a_registry_wants_is_read_as_it_is_written_out_there() {
        let docker = "Bearer realm=\"https://auth.example/token\",service=\"reg\",scope=\"repository:a:pull,push\"";
        let expected = vec![
            pair("realm", "https://auth.example/token"),
            pair("scope", "repository:a:pull,push"),
            pair("service", "reg"),
        ];
        assert_eq!(read(docker), [("bearer".to_owned(), expected.clone())]);
        let both = format!("basic realm=plain , {}", docker.replace("realm=", "Realm="));
        let basic = ("basic".to_owned(), vec![pair("realm", "plain")]);
        assert_eq!(read(&both), [basic, ("bearer".to_owned(), expected)]);
        assert_eq!(read("Basic realm=\"a \\\"b\\\", c\""), [("basic".to_owned(), vec![pair("realm", "a \"b\", c")])]);
        assert_eq!(read("Negotiate"), [("negotiate".to_owned(), Vec::new())]);
        assert_eq!(read(""), []);
    }

    #[test]
    fn a_token_is_asked_for_with_a_password_or_with_an_identity_token() {
        let challenge = challenges("Bearer realm=\"https://auth.example/t?x=1\",service=\"my reg\"").remove(0);
        let scopes = ["repository:a:pull,push".to_owned(), "repository:b:pull".to_owned()];
        let login = Login { user: "ann".to_owned(), password: "it's:me".to_owned() };
        let call = challenge.token_call(&scopes, Some(&login)).unwrap();
        assert_eq!(
            call.url.as_str(),
            "https://auth.example/t?x=1&service=my+reg&scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%3Apull"
        );
        assert_eq!((call.form, call.basic.as_deref()), (None, Some("Basic YW5uOml0J3M6bWU=")));
        let login = Login { user: Login::IDENTITY.to_owned(), password: "r/t".to_owned() };
        let call = challenge.token_call(&scopes[..1], Some(&login)).unwrap();
        let form = "grant_type=refresh_token&client_id=pando&service=my+reg&scope=repository%3Aa%3Apull%2Cpush\
                    &refresh_token=r%2Ft";
        assert_eq!((call.form.as_deref(), call.basic), (Some(form), None));
        assert_eq!(challenge.token_call(&[], None).unwrap().basic, None);
        assert_eq!(challenges("Bearer service=\"reg\"").remove(0).token_call(&[], None), None);
    }
}

//! Scopes of tokens, `TYPE:NAME:ACTIONS` (distribution's token scope grammar), between what a
//! client calls a repository and what its upstream does.

/// A scope of a repository: `repository`, or `repository(CLASS)` as Docker has it for plugins.
struct Repository<'a> {
    kind: &'a str,
    name: &'a str,
    actions: &'a str,
}

fn repository(scope: &str) -> Option<Repository<'_>> {
    let (kind, rest) = scope.split_once(':')?;
    // A name may hold a colon, as of a port; actions do not.
    let (name, actions) = rest.rsplit_once(':')?;
    let is_class = |class: &str| class.starts_with('(') && class.ends_with(')');
    let class = kind.strip_prefix("repository")?;
    (class.is_empty() || is_class(class)).then_some(Repository {
        kind,
        name,
        actions,
    })
}

/// The repository that a scope is of.
pub(in crate::server) fn name(scope: &str) -> Option<&str> {
    repository(scope).map(|repository| repository.name)
}

/// A scope of another repository; one of no repository as it is.
pub(in crate::server) fn renamed(scope: &str, name: &str) -> String {
    match repository(scope) {
        Some(Repository { kind, actions, .. }) => format!("{kind}:{name}:{actions}"),
        None => scope.to_owned(),
    }
}

/// A scope as clients know it that see its upstream below `prefix`.
pub(in crate::server) fn below(prefix: Option<&str>, scope: &str) -> String {
    match (prefix, name(scope)) {
        (Some(prefix), Some(name)) => renamed(scope, &format!("{prefix}/{name}")),
        _ => scope.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_scope_gets_the_prefix_and_nothing_else_does() {
        for (scope, name_of, wanted) in [
            (
                "repository:library/redis:pull,push",
                Some("library/redis"),
                "repository:hub/library/redis:pull,push",
            ),
            (
                "repository(plugin):a:pull",
                Some("a"),
                "repository(plugin):hub/a:pull",
            ),
            (
                "repository:h:5000/a:*",
                Some("h:5000/a"),
                "repository:hub/h:5000/a:*",
            ),
            ("registry:catalog:*", None, "registry:catalog:*"),
            ("repositoryx:a:pull", None, "repositoryx:a:pull"),
            ("repository:a", None, "repository:a"),
            ("", None, ""),
        ] {
            assert_eq!(name(scope), name_of, "{scope}");
            assert_eq!(below(Some("hub"), scope), wanted);
            assert_eq!(below(None, scope), scope);
            if let Some(name) = name_of {
                assert_eq!(renamed(wanted, name), scope);
            }
        }
    }
}

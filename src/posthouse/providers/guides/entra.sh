#!/bin/sh
# Registers {{ display_name }} at {{ title }} and writes posthouse-app.toml for Posthouse.
# It can be run again: it changes what it made before{% if credential != "none" %}, and makes a new {{ credential }}{% endif %}.
# Needs the Azure CLI (az){% if credential == "certificate" %} and openssl{% endif %}, and somebody who may register apps{% if organisation %} and consent for all; for Exchange also PowerShell{% endif %}.
set -eu
umask 077
{% if cloud != "AzureCloud" %}
az cloud set --name {{ cloud | sh }}
{% endif %}
az account show --only-show-errors >/dev/null 2>&1 || az login --allow-no-subscriptions{% if tenant %} --tenant {{ tenant | sh }}{% endif %} >/dev/null

# 00000002-… is Office 365 Exchange Online, 00000003-… is Microsoft Graph.
access=
for resource in {{ resources | join(" ") }}; do
    entries=
    for permission in {{ permissions | map("sh") | join(" ") }}; do
        id=$(az ad sp show --id "$resource" --query "{{ "appRoles" if app_only else "oauth2PermissionScopes" }}[?value=='$permission'].id | [0]" --output tsv 2>/dev/null || true)
        [ -z "$id" ] || entries="$entries${entries:+,}{\"id\":\"$id\",\"type\":\"{{ "Role" if app_only else "Scope" }}\"}"
    done
    [ -z "$entries" ] || access="$access${access:+,}{\"resourceAppId\":\"$resource\",\"resourceAccess\":[$entries]}"
done
[ -n "$access" ] || { echo 'This directory knows none of the permissions.' >&2; exit 1; }

{% if client_id %}
client_id={{ client_id | sh }}
{% else %}
client_id=$(az ad app list --filter {{ ("displayName eq '" ~ display_name ~ "'") | sh }} --query '[0].appId' --output tsv)
[ -n "$client_id" ] || client_id=$(az ad app create --display-name {{ display_name | sh }} --query appId --output tsv{% if audience == "PersonalMicrosoftAccount" %} --sign-in-audience {{ audience | sh }} --requested-access-token-version 2{% endif %})
{% endif %}
az ad app update --id "$client_id" --sign-in-audience {{ audience | sh }} \
{% if public_client %}
    --is-fallback-public-client true \
{% endif %}
{% if redirect_url %}
    {{ "--web-redirect-uris" if credential != "none" else "--public-client-redirect-uris" }} {{ redirect_url | sh }} \
{% endif %}
    --required-resource-accesses "[$access]"
{% if organisation %}
az ad sp show --id "$client_id" >/dev/null 2>&1 || az ad sp create --id "$client_id" >/dev/null
# Consent of the administrator. A new app is not known everywhere at once, so it is tried for a while.
for attempt in 1 2 3 4 5 6; do
    az ad app permission admin-consent --id "$client_id" && break
    [ "$attempt" -lt 6 ] || exit 1
    sleep 10
done
{% endif %}

{
    echo '[[app]]'
    echo {{ ("name = " ~ (name | toml)) | sh }}
    echo {{ ("provider = " ~ (provider | toml)) | sh }}
    echo "client_id = \"$client_id\""
{% if organisation %}
    echo "tenant = \"$(az account show --query tenantId --output tsv)\""
{% endif %}
} > posthouse-app.toml
{% if credential == "secret" %}
az ad app credential reset --id "$client_id" --append --years 1 --display-name Posthouse --query password --output tsv --only-show-errors > posthouse-secret.txt
{
    echo 'client_secret = { file = "posthouse-secret.txt" }'
    echo "secret_expires = $(az ad app credential list --id "$client_id" --query 'max([].endDateTime)' --output tsv | cut -c1-10)"
} >> posthouse-app.toml
{% elif credential == "certificate" %}
openssl req -x509 -newkey rsa:3072 -sha256 -nodes -days 365 -subj /CN=Posthouse -keyout posthouse-key.pem -out posthouse-certificate.pem 2>/dev/null
az ad app credential reset --id "$client_id" --append --cert @posthouse-certificate.pem --only-show-errors >/dev/null
{
    echo 'private_key = { file = "posthouse-key.pem" }'
    echo 'certificate = { file = "posthouse-certificate.pem" }'
} >> posthouse-app.toml
{% endif %}
{% if organisation %}

# Exchange Online has no Azure CLI: this part is PowerShell.
cat > posthouse-exchange.ps1 <<'END'
param([string] $AppId, [string] $ObjectId)
$ErrorActionPreference = 'Stop'
if (-not (Get-Module -ListAvailable -Name ExchangeOnlineManagement)) { Install-Module ExchangeOnlineManagement -Scope CurrentUser -Force }
{% include "exchange.ps1" %}
END
object_id=$(az ad sp show --id "$client_id" --query id --output tsv)
if command -v pwsh >/dev/null; then
    pwsh -NoProfile -File posthouse-exchange.ps1 "$client_id" "$object_id"
else
    echo "Run this where PowerShell is: pwsh -File posthouse-exchange.ps1 $client_id $object_id"
fi
{% endif %}

cat posthouse-app.toml
echo 'This stands in posthouse-app.toml. Next: posthouse apply posthouse-app.toml'
